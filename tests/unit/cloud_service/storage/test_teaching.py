"""What a student is trained on."""

import numpy as np

from cloud_service.storage.blobs import Range
from cloud_service.storage.models import Sample
from cloud_service.storage.samples import Answer, NewSample, SampleFilter, SampleStore
from tests.sim.bundles import sample
from tests.sim.device import header
from tests.sim.stored import new, says


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


async def test_human_label_wins_in_the_training_set(samples):
    agreed, corrected, unanswered, foreign = (new(n) for n in range(4))
    await samples.add([agreed, corrected, unanswered, foreign])
    await samples.answer([(one.header.sample_id, says(5)) for one in (agreed, corrected)])
    labels = [(agreed, 5), (corrected, 6), (unanswered, 7), (foreign, 10)]
    await samples.label([(one.header.sample_id, label) for one, label in labels], by="ann")
    whole = await samples.training_set("digits", limit=10)
    assert np.array_equal(whole.x, [sample(0), sample(1), sample(2)])
    assert np.array_equal(whole.probabilities[0], says(5).probabilities)
    assert whole.probabilities[1].tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 0, 0]
    assert whole.probabilities[2].argmax() == 7
    assert await samples.count_answered("digits") == (4, whole.number[-1] + 1)


async def test_human_labels_alone_make_no_training_set(samples):
    one = new()
    await samples.add([one])
    await samples.label([(one.header.sample_id, 1)], by="ann")
    assert await samples.training_set("digits", limit=10) is None


async def test_duplicates_add_to_the_weight_of_their_first(database, blobs):
    store = SampleStore(database, blobs, near_duplicates={"digits": 0.0})
    batch = [new(1, inclusion_probability=0.5), new(1), new(1), new(2)]
    await store.add(batch)
    await store.answer([(one.header.sample_id, says(1)) for one in batch])
    whole = await store.training_set("digits", limit=10)
    assert np.array_equal(whole.x, [sample(1), sample(2)])
    assert whole.weight.tolist() == [6.0, 1.0]


async def test_duplicate_that_a_human_labelled_is_trained_on(database, blobs):
    store = SampleStore(database, blobs, near_duplicates={"digits": 0.0})
    batch = [new(1), new(1)]
    await store.add(batch)
    await store.answer([(one.header.sample_id, says(1)) for one in batch])
    await store.label([(batch[1].header.sample_id, 3)], by="ann")
    whole = await store.training_set("digits", limit=10)
    assert whole.probabilities.argmax(axis=1).tolist() == [1, 3]


async def test_sample_whose_payload_is_lost_is_left_out_and_said(samples, blobs, caplog):
    lost, kept = new(1), new(2)
    await samples.add([lost])
    lost_packs = set(blobs.blobs)
    await samples.add([kept])
    await samples.answer([(one.header.sample_id, says(label)) for label, one in enumerate((lost, kept), 1)])
    for name in lost_packs:
        del blobs.blobs[name]
    whole = await samples.training_set("digits", limit=10)
    assert whole.probabilities.argmax(axis=1).tolist() == [2]
    assert "1 samples have no payload" in caplog.text
    blobs.blobs.clear()
    assert await samples.training_set("digits", limit=10) is None


async def test_sample_of_a_replica_of_the_release_before_packs_is_read(samples, blobs, database):
    from sqlalchemy import update

    await samples.add([new(3)])
    [row] = await samples.page(SampleFilter(), before=None, limit=1)
    await blobs.put(row.blob, await blobs_only(blobs, row))
    old = update(Sample).values(pack="", pack_start=0, payload_bytes=0)
    async with database.writing() as session:
        await session.execute(old)
    [row] = await samples.page(SampleFilter(), before=None, limit=1)
    assert (await samples.tensor(row)).argmax() == 3


async def blobs_only(blobs, row):
    [payload] = await blobs.get(row.pack, [Range(row.pack_start, row.payload_bytes)])
    return payload
