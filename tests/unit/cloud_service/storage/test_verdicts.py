"""What teachers and people say, and which samples are told to be alike by it."""

import asyncio

import numpy as np
import pytest

from cloud_service.errors import StoreError
from cloud_service.storage.samples import SampleFilter, SampleStore
from tests.sim.bundles import sample
from tests.sim.stored import new, says

CAT, NEARLY_CAT, DOG = (1.0, 0.0, 0.0), (1.0, 0.02, 0.0), (0.0, 1.0, 0.0)


def ids(samples):
    return [one.header.sample_id for one in samples]


@pytest.fixture
def folding(database, blobs):
    """A store with near-duplicates."""
    return SampleStore(database, blobs, near_duplicates={"digits": 0.01})


async def test_first_verdict_of_a_sample_stands(samples):
    one = new()
    await samples.add([one])
    await samples.answer([(one.header.sample_id, says(1))])
    await samples.answer([(one.header.sample_id, says(2, "t2"))])
    known = (await samples.known(ids([one])))[one.header.sample_id]
    assert (known.answer.label, known.answer.teacher) == (1, "t1")


async def test_verdict_keeps_embedding_and_temperature(samples):
    one = new()
    await samples.add([one])
    answer = says(1, embedding=(3.0, 4.0))
    await samples.answer([(one.header.sample_id, type(answer)(answer.probabilities, "t1", answer.embedding, 2.5))])
    known = (await samples.known(ids([one])))[one.header.sample_id].answer
    assert known.temperature == 2.5
    assert known.embedding == pytest.approx([0.6, 0.8], abs=1e-3)


async def test_answer_after_a_failure_stands_and_a_failure_after_an_answer_does_not(samples):
    one, other = new(1), new(2)
    await samples.add([one, other])
    await samples.fail(one.header.sample_id, "out of memory")
    await samples.answer([(one.header.sample_id, says(1)), (other.header.sample_id, says(2))])
    await samples.fail(other.header.sample_id, "too late")
    known = await samples.known(ids([one, other]))
    assert [(k.answer.label, k.failure) for k in (known[i] for i in ids([one, other]))] == [(1, None), (2, None)]


async def test_newest_human_label_wins_over_the_teachers(samples):
    one, other = new(1), new(2)
    await samples.add([one, other])
    await samples.answer([(one.header.sample_id, says(1))])
    assert await samples.label([(one.header.sample_id, 7), (new().header.sample_id, 3)], by="ann") == 1
    assert await samples.label([(one.header.sample_id, 8), (other.header.sample_id, 2)], by="ben") == 2
    assert await samples.label([], by="ben") == 0
    row = await samples.one(one.header.sample_id)
    assert (row.label, row.human_label, row.labelled_by) == (1, 8, "ben")
    assert row.labelled_at is not None
    assert {(g.label, g.count) for g in await samples.groups(SampleFilter())} == {(8, 1), (2, 1)}


async def test_sample_like_the_last_ones_of_its_device_becomes_a_duplicate(folding, blobs):
    first, alike, unlike = new(1), new(2), new(3)
    await folding.add([first])
    await folding.add([alike, unlike])
    await folding.answer([(first.header.sample_id, says(4, embedding=CAT))])
    await folding.answer(
        [(alike.header.sample_id, says(4, embedding=NEARLY_CAT)), (unlike.header.sample_id, says(4, embedding=DOG))]
    )
    stands, row, other = [await folding.one(one) for one in ids([first, alike, unlike])]
    assert (row.duplicate_of, row.label) == (stands.id, 4)
    assert (stands.duplicates, other.duplicate_of) == (1, None)
    assert np.array_equal(await folding.tensor(row), sample(1))


async def test_payload_of_a_duplicate_is_not_kept(folding, blobs):
    first, alike = new(1), new(2)
    await folding.add([first])
    await folding.add([alike])
    await folding.answer([(one, says(4, embedding=CAT)) for one in ids([first, alike])])
    assert len(blobs.blobs) == 2
    assert await folding.sweep() == 1
    assert len(blobs.blobs) == 1
    assert np.array_equal(await folding.tensor(await folding.one(alike.header.sample_id)), sample(1))


@pytest.mark.parametrize(
    "case", ["another device", "another label", "another task", "labelled by a human", "without embedding"]
)
async def test_sample_is_no_duplicate_where(folding, case):
    changes = {"another device": {"device": "cam-2"}, "another task": {"task": "sounds"}}.get(case, {})
    first, other = new(1), new(2, **changes)
    await folding.add([first, other])
    if case == "labelled by a human":
        await folding.label([(other.header.sample_id, 4)], by="ann")
    label = 5 if case == "another label" else 4
    embedding = None if case == "without embedding" else CAT
    await folding.answer([(first.header.sample_id, says(4, embedding=CAT))])
    await folding.answer([(other.header.sample_id, says(label, embedding=embedding))])
    assert (await folding.one(other.header.sample_id)).duplicate_of is None


async def test_verdict_that_comes_again_makes_no_duplicate(folding):
    one, other = new(1), new(2)
    await folding.add([one, other])
    for _ in range(2):
        await folding.answer([(i, says(4, embedding=e)) for i, e in zip(ids([one, other]), (CAT, DOG), strict=True)])
    assert [(await folding.one(i)).duplicates for i in ids([one, other])] == [0, 0]


async def test_nothing_becomes_a_duplicate_of_a_sample_that_was_deleted(folding):
    first, alike = new(1), new(2)
    await folding.add([first, alike])
    await folding.answer([(first.header.sample_id, says(4, embedding=CAT))])
    await folding.purge(SampleFilter(label=4))
    await folding.answer([(alike.header.sample_id, says(4, embedding=CAT))])
    row = await folding.one(alike.header.sample_id)
    assert (row.duplicate_of, row.label) == (None, 4)


async def test_replicas_that_write_the_same_at_once_store_it_once(database_url, database, blobs):
    from cloud_service.storage.database import open_database

    batch = [new(n % 10, seq=n) for n in range(24)]
    async with open_database(database_url) as other:
        stores = [SampleStore(one, blobs, near_duplicates={"digits": 0.0}) for one in (database, other)]
        halves = [batch[:16], batch[8:], batch[::-1][:16], batch]
        await asyncio.gather(*(stores[n % 2].add(half) for n, half in enumerate(halves)))
        verdicts = [[(i, says(label)) for i in ids(half)] for label, half in enumerate(halves)]
        await asyncio.gather(*(stores[n % 2].answer(some) for n, some in enumerate(verdicts)))
        rows = await stores[0].page(SampleFilter(), before=None, limit=100)
    assert sorted(row.id for row in rows) == sorted(ids(batch))
    firsts = [row for row in rows if row.duplicate_of is None]
    assert len(firsts) == 10
    assert sum(row.duplicates for row in firsts) == 14
    assert all(row.label == int(np.frombuffer(row.probabilities, "<f4").argmax()) for row in rows)


@pytest.mark.parametrize("call", ["add", "answer", "label", "fail", "known", "page", "histograms", "scores"])
async def test_closed_database_is_a_store_error(tmp_path, blobs, call):
    from sqlalchemy import text

    from cloud_service.storage.database import open_database

    async with open_database(f"sqlite+aiosqlite:///{tmp_path / 'broken.db'}") as database:
        async with database.writing() as session:
            await session.execute(text("DROP TABLE samples"))
        store = SampleStore(database, blobs)
        one = new()
        calls = {
            "add": lambda: store.add([one]),
            "answer": lambda: store.answer([(one.header.sample_id, says(1))]),
            "label": lambda: store.label([(one.header.sample_id, 1)], by="ann"),
            "fail": lambda: store.fail(one.header.sample_id, "x"),
            "known": lambda: store.known([one.header.sample_id]),
            "page": lambda: store.page(SampleFilter(), before=None, limit=1),
            "histograms": lambda: store.histograms("digits"),
            "scores": lambda: store.scores("digits", after=0, limit=1),
        }
        with pytest.raises(StoreError, match="no such table"):
            await calls[call]()
