"""What comes into the store: each sample once, payloads before rows, duplicates counted, the deleted refused."""

from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import numpy as np
import pytest

from cloud_service.errors import NotFound, StoreError
from cloud_service.storage.samples import PURGED, Group, Known, NewSample, SampleFilter, SampleStore
from shared.errors import StorageFull
from shared.ids import uuid7
from shared.messages import Reason
from tests.sim.bundles import sample
from tests.sim.device import header
from tests.sim.stored import new, says

EVERYTHING = SampleFilter()


@pytest.fixture
def counting(database, blobs):
    """A store that counts equal payloads."""
    return SampleStore(database, blobs, near_duplicates={"digits": 0.0})


async def rows(store, which=EVERYTHING):
    return (await store.page(which, before=None, limit=1000))[::-1]


async def test_stored_sample_comes_back_whole(samples):
    first = new(3, seq=5, hardness=0.75, reason=Reason.AUDIT, inclusion_probability=0.1, prediction=2)
    await samples.add([first])
    row = await samples.one(first.header.sample_id)
    assert (row.device, row.task, row.seq, row.prediction) == ("cam-1", "digits", 5, 2)
    assert (row.reason, row.inclusion_probability, row.hardness) == ("audit", 0.1, 0.75)
    assert (row.label, row.human_label, row.duplicates, row.duplicate_of) == (None, None, 0, None)
    assert row.payload_bytes > 64
    assert np.array_equal(await samples.tensor(row), sample(3))


async def test_storage_time_is_the_clouds(database, blobs):
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    store = SampleStore(database, blobs, now=lambda: at)
    one = new()
    await store.add([one])
    await store.answer([(one.header.sample_id, says(1))])
    row = await store.one(one.header.sample_id)
    assert (row.stored_at, row.answered_at) == (at, at)


async def test_payloads_of_a_batch_lie_in_one_object(samples, blobs):
    await samples.add([new(n) for n in range(5)])
    assert len(blobs.blobs) == 1
    stored = await rows(samples)
    assert len({row.blob for row in stored}) == 5
    assert [int((await samples.tensor(row)).argmax()) for row in stored] == [0, 1, 2, 3, 4]


async def test_adding_a_sample_again_changes_nothing(samples):
    one = new(1)
    await samples.add([one])
    await samples.add([NewSample("cam-2", one.header, sample(2)), new(2)])
    assert len(await rows(samples)) == 2
    stored = await samples.one(one.header.sample_id)
    assert stored.device == "cam-1"
    assert np.array_equal(await samples.tensor(stored), sample(1))


async def test_adding_nothing_is_allowed(samples, blobs):
    await samples.add([])
    assert blobs.blobs == {}
    assert await samples.known([]) == {}


class Broken:
    """A database some of whose first transactions fail as they are committed: undone, or done and the reply lost."""

    def __init__(self, database, error, *, times, undone):
        self._database, self._error, self._left, self._undone = database, error, times, undone

    def __getattr__(self, name):
        return getattr(self._database, name)

    @asynccontextmanager
    async def in_turn(self):
        async with self._database.in_turn() as connection:
            yield connection
            if self._undone:
                self._fail()
        self._fail()

    async def write(self, work):
        async with self.in_turn() as connection:
            return await connection.run_sync(work)

    def _fail(self):
        self._left -= 1
        if self._left >= 0:
            raise self._error


FULL, FAILED = StorageFull("no space left for the database: simulated"), StoreError("the database failed: simulated")


@pytest.mark.parametrize("error", [FULL, FAILED])
async def test_commit_that_fails_leaves_no_payload_that_nobody_finds(database, blobs, error):
    one = new()
    with pytest.raises(type(error), match="simulated"):
        await SampleStore(Broken(database, error, times=1, undone=True), blobs).add([one])
    assert blobs.blobs == {}
    assert await SampleStore(database, blobs).known([one.header.sample_id]) == {}


@pytest.mark.parametrize("error", [FULL, FAILED])
@pytest.mark.parametrize("times", [1, 100])
async def test_payload_stays_where_the_reply_to_its_rows_commit_is_lost(database, blobs, error, times):
    with pytest.raises(type(error), match="simulated"):
        await SampleStore(Broken(database, error, times=times, undone=False), blobs).add([new(1)])
    store = SampleStore(database, blobs)
    [row] = await rows(store)
    assert np.array_equal(await store.tensor(row), sample(1))


async def test_rows_that_cannot_be_written_leave_no_payload(database, blobs):
    store = SampleStore(database, blobs)
    with pytest.raises(StoreError):
        await store.add([replace(new(1), device=None)])
    assert blobs.blobs == {}


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


async def test_equal_payload_of_the_same_device_is_counted_on_the_first(counting, blobs):
    first, again, third = (new(4) for _ in range(3))
    await counting.add([first])
    await counting.add([again, new(5)])
    await counting.add([third])
    await counting.add([third])
    assert (await counting.one(first.header.sample_id)).duplicates == 2
    row = await counting.one(again.header.sample_id)
    assert row.duplicate_of == first.header.sample_id
    assert np.array_equal(await counting.tensor(row), sample(4))
    assert set(await counting.known([again.header.sample_id])) == {again.header.sample_id}


async def test_equal_payloads_of_one_batch_are_one_and_its_duplicates(counting):
    batch = [new(4), new(4), new(4)]
    await counting.add(batch)
    first, second, third = await rows(counting)
    assert (first.duplicates, first.duplicate_of) == (2, None)
    assert second.duplicate_of == third.duplicate_of == first.id


async def test_equal_payload_of_another_device_or_task_is_no_duplicate(counting):
    await counting.add([new(4), new(4, device="cam-2"), new(4, task="sounds"), new(4, task="sounds")])
    assert [row.duplicate_of for row in await rows(counting)] == [None] * 4


async def test_redelivered_sample_is_no_duplicate_of_itself(counting):
    one = new(4)
    await counting.add([one, one])
    await counting.add([one])
    [row] = await rows(counting)
    assert (row.duplicate_of, row.duplicates) == (None, 0)


async def test_sample_that_was_purged_does_not_come_back(samples, blobs):
    one, other = new(1), new(2)
    await samples.add([one, other])
    await samples.purge(SampleFilter(device="cam-1"))
    assert (await samples.add([one, new(3)])).keys() == {one.header.sample_id}
    assert [int((await samples.tensor(row)).argmax()) for row in await rows(samples)] == [3]
    known = await samples.known([one.header.sample_id])
    assert known[one.header.sample_id].failure == PURGED


def made(seq: int, at: datetime, **changes) -> NewSample:
    """A sample whose id says that it was made at that time."""
    fields = header(seq=seq, sample_id=uuid7(int(at.timestamp() * 1000), uuid4().bytes[:10]), **changes)
    return NewSample("cam-1", fields, sample(seq % 10))


async def test_what_a_purged_device_made_before_and_still_holds_is_refused(samples):
    now = datetime.now(UTC)
    await samples.add([made(10, now), made(3, now, task="sounds")])
    await samples.purge_device("cam-1")
    before, after = now - timedelta(hours=1), now + timedelta(hours=1)
    waited = made(9, before)
    fresh = [
        made(11, before),  # its clock is behind, its count is not
        made(0, after),  # it was set up anew
        made(4, before, task="sounds"),
        replace(made(9, before), device="cam-2"),
    ]
    refused = await samples.add([waited, *fresh])
    assert refused == {waited.header.sample_id: Known("cam-1", None, PURGED)}
    assert {row.id for row in await rows(samples)} == {one.header.sample_id for one in fresh}


async def test_unknown_sample_and_lost_payload_are_not_found(samples, blobs):
    with pytest.raises(NotFound):
        await samples.one(uuid4())
    one = new()
    await samples.add([one])
    blobs.blobs.clear()
    with pytest.raises(NotFound):
        await samples.tensor(await samples.one(one.header.sample_id))


async def test_pages_go_back_from_the_newest_without_gaps(samples):
    everything = [new(n % 10, seq=n) for n in range(7)]
    await samples.add(everything)
    seen, before = [], None
    while found := await samples.page(EVERYTHING, before=before, limit=3):
        seen += [row.id for row in found]
        before = found[-1].number
    assert seen == [one.header.sample_id for one in reversed(everything)]


async def test_filter_and_counts_agree(samples):
    await samples.add([new(device="a"), new(device="b", reason=Reason.AUDIT), new(device="b", task="sounds")])
    found = await rows(samples, SampleFilter(device="b", reason="audit"))
    assert [(row.device, row.reason) for row in found] == [("b", "audit")]
    await samples.answer([(found[0].id, says(4))])
    assert len(await rows(samples, SampleFilter(label=4))) == 1
    assert await samples.groups(SampleFilter(task="digits")) == [
        Group("digits", "a", "hard", None, 1),
        Group("digits", "b", "audit", 4, 1),
    ]


async def test_object_of_nothing_but_duplicates_and_redeliveries_is_deleted(counting, blobs):
    one = new(4)
    await counting.add([one, new(5)])
    await counting.add([new(4)])
    await counting.add([one])
    assert len(blobs.blobs) == 3
    assert await counting.sweep() == 2
    assert len(blobs.blobs) == 1
    assert [int((await counting.tensor(row)).argmax()) for row in await rows(counting)] == [4, 5, 4]


async def test_payload_of_a_refused_sample_is_in_no_object(samples, blobs):
    one = new(1)
    await samples.add([one])
    await samples.purge(SampleFilter(device="cam-1"))
    await samples.add([one, new(2)])
    await samples.sweep()
    stored = b"".join(blobs.blobs.values())
    assert sample(1).tobytes() not in stored
    assert sample(2).tobytes() in stored
