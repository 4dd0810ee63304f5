from datetime import UTC, datetime
from uuid import uuid4

import numpy as np
import pytest

from cloud_service.errors import NotFound, StoreError
from cloud_service.storage.samples import Answer, Group, NewSample, SampleFilter, SampleStore
from shared.errors import StorageFull
from shared.messages import Reason
from tests.sim.bundles import sample
from tests.sim.device import header


def new(label: int = 1, device: str = "cam-1", **changes) -> NewSample:
    return NewSample(device, header(**changes), sample(label))


def says(label: int, teacher: str = "t1") -> Answer:
    probabilities = np.full(10, 0.01, np.float32)
    probabilities[label] = 0.91
    return Answer(probabilities, teacher)


async def test_stored_sample_comes_back_whole(samples):
    first = new(3, seq=5, hardness=0.75, reason=Reason.AUDIT, inclusion_probability=0.1, prediction=2)
    await samples.add([first])
    row = await samples.one(first.header.sample_id)
    assert (row.device, row.task, row.seq, row.prediction) == ("cam-1", "digits", 5, 2)
    assert (row.reason, row.inclusion_probability, row.hardness) == ("audit", 0.1, 0.75)
    assert row.label is None
    assert np.array_equal(await samples.tensor(row), sample(3))


async def test_storage_time_is_the_clouds(database, blobs):
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    store = SampleStore(database, blobs, now=lambda: at)
    one = new()
    await store.add([one])
    await store.answer([(one.header.sample_id, says(1))])
    row = await store.one(one.header.sample_id)
    assert (row.stored_at, row.answered_at) == (at, at)


async def test_adding_a_sample_again_changes_nothing(samples):
    one = new(1)
    await samples.add([one])
    await samples.add([NewSample("cam-2", one.header, sample(2)), new(2)])
    rows = await samples.page(SampleFilter(), before=None, limit=10)
    assert len(rows) == 2
    assert (await samples.one(one.header.sample_id)).device == "cam-1"


async def test_adding_nothing_is_allowed(samples, blobs):
    await samples.add([])
    assert blobs.blobs == {}
    assert await samples.known([]) == {}


@pytest.mark.parametrize(("fault", "error"), [("full", StorageFull), ("broken", StoreError)])
async def test_failing_blob_store_leaves_no_row(samples, blobs, fault, error):
    setattr(blobs, fault, True)
    one = new()
    with pytest.raises(error):
        await samples.add([one])
    assert await samples.known([one.header.sample_id]) == {}


async def test_known_tells_answered_failed_and_open_samples_apart(samples):
    answered, failed, still_open = new(1), new(2), new(3)
    await samples.add([answered, failed, still_open])
    await samples.answer([(answered.header.sample_id, says(1))])
    await samples.fail(failed.header.sample_id, "too hard")
    ids = [one.header.sample_id for one in (answered, failed, still_open)]
    known = await samples.known([*ids, uuid4()])
    assert set(known) == set(ids)
    assert known[ids[0]].answer.label == 1
    assert np.array_equal(known[ids[0]].answer.probabilities, says(1).probabilities)
    assert (known[ids[1]].answer, known[ids[1]].failure) == (None, "too hard")
    assert (known[ids[2]].answer, known[ids[2]].failure) == (None, None)
    assert [row.id for row in await samples.unanswered(after=0, limit=10)] == [ids[2]]


async def test_first_verdict_of_a_sample_stands(samples):
    one = new()
    await samples.add([one])
    await samples.answer([(one.header.sample_id, says(1))])
    await samples.answer([(one.header.sample_id, says(2, "t2"))])
    known = (await samples.known([one.header.sample_id]))[one.header.sample_id]
    assert (known.answer.label, known.answer.teacher) == (1, "t1")


async def test_pages_go_back_from_the_newest_without_gaps(samples):
    everything = [new(n % 10, seq=n) for n in range(7)]
    await samples.add(everything)
    seen, before = [], None
    while rows := await samples.page(SampleFilter(), before=before, limit=3):
        seen += [row.id for row in rows]
        before = rows[-1].number
    assert seen == [one.header.sample_id for one in reversed(everything)]


async def test_filter_and_counts_agree(samples):
    await samples.add([new(device="a"), new(device="b", reason=Reason.AUDIT), new(device="b", task="sounds")])
    rows = await samples.page(SampleFilter(device="b", reason="audit"), before=None, limit=10)
    assert [(row.device, row.reason) for row in rows] == [("b", "audit")]
    await samples.answer([(rows[0].id, says(4))])
    assert len(await samples.page(SampleFilter(label=4), before=None, limit=10)) == 1
    assert await samples.groups(SampleFilter(task="digits")) == [
        Group("digits", "a", "hard", None, 1),
        Group("digits", "b", "audit", 4, 1),
    ]


async def test_unknown_sample_and_lost_payload_are_not_found(samples, blobs):
    with pytest.raises(NotFound):
        await samples.one(uuid4())
    one = new()
    await samples.add([one])
    blobs.blobs.clear()
    with pytest.raises(NotFound):
        await samples.tensor(await samples.one(one.header.sample_id))


async def test_training_set_is_what_was_answered_in_order_with_weights(samples):
    assert await samples.training_set("digits", limit=10) is None
    kept = [new(n, inclusion_probability=p) for n, p in ((1, 1.0), (2, 0.25), (3, 0.5))]
    await samples.add([*kept, new(9), new(8, task="sounds")])
    await samples.answer([(one.header.sample_id, says(n)) for n, one in enumerate(kept)])
    whole = await samples.training_set("digits", limit=10)
    assert np.array_equal(whole.x, [sample(1), sample(2), sample(3)])
    assert whole.probabilities.argmax(axis=1).tolist() == [0, 1, 2]
    assert whole.weight.tolist() == [1.0, 4.0, 2.0]
    assert whole.number.tolist() == sorted(whole.number.tolist())
    newest = await samples.training_set("digits", limit=2)
    assert np.array_equal(newest.x, [sample(2), sample(3)])
    assert await samples.count_answered("digits") == (3, whole.number[-1])
    assert await samples.count_answered("digits", after=int(whole.number[0])) == (2, whole.number[-1])


async def test_training_set_leaves_out_answers_of_another_width(samples):
    old, recent = new(1), new(2)
    await samples.add([old, recent])
    narrow = Answer(np.array([0.5, 0.5], np.float32), "t0")
    await samples.answer([(old.header.sample_id, narrow), (recent.header.sample_id, says(2))])
    assert (await samples.training_set("digits", limit=10)).probabilities.shape == (1, 10)


async def test_training_set_leaves_out_samples_of_an_earlier_shape(samples):
    old, recent = NewSample("cam-1", header(), np.zeros((4, 4), np.uint8)), new(2)
    await samples.add([old])
    await samples.add([recent])
    await samples.answer([(one.header.sample_id, says(2)) for one in (old, recent)])
    whole = await samples.training_set("digits", limit=10)
    assert np.array_equal(whole.x, [sample(2)])
    assert len(whole.probabilities) == len(whole.weight) == len(whole.number) == 1
