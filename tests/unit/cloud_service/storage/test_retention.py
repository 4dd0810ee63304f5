"""What the store keeps of a task, and what it gives up first."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from cloud_service.errors import StoreError
from cloud_service.settings import ServedTask
from cloud_service.storage.retention import Retention
from cloud_service.storage.samples import Purged, RetentionRules, SampleFilter, SampleStore
from cloud_service.storage.settings import RetentionSettings
from cloud_service.storage.sizes import Size
from tests.sim.stored import new, says


def unit(degrees: float) -> tuple[float, float]:
    return float(np.cos(np.radians(degrees))), float(np.sin(np.radians(degrees)))


async def stored(store, task="digits"):
    return (await store.page(SampleFilter(task=task), before=None, limit=1000))[::-1]


async def fill(store, count, *, embedding=lambda n: unit(n * 10), label=lambda n: 4, sure=lambda n: 0.91, **changes):
    batch = [new(n % 10, seq=n, **changes) for n in range(count)]
    await store.add(batch)
    answers = [
        (one.header.sample_id, says(label(n), embedding=embedding(n), sure=sure(n))) for n, one in enumerate(batch)
    ]
    await store.answer(answers)
    return [one.header.sample_id for one in batch]


async def kept(store, ids):
    """Places of those that are still there."""
    there = {row.id for row in await stored(store)}
    return [place for place, one in enumerate(ids) if one in there]


async def test_rules_without_limits_delete_nothing(samples):
    ids = await fill(samples, 5)
    assert await samples.retain("digits", RetentionRules()) == Purged()
    assert await samples.retain("digits", RetentionRules(timedelta(days=1), 5, 10**6, 5)) == Purged()
    assert await kept(samples, ids) == [0, 1, 2, 3, 4]


async def test_too_old_samples_go_whatever_they_are_worth(database, blobs):
    at = [datetime(2026, 1, 1, tzinfo=UTC)]
    store = SampleStore(database, blobs, now=lambda: at[0])
    old = await fill(store, 3)
    await store.label([(old[0], 1)], by="ann")
    await fill(store, 2, task="sounds")
    at[0] += timedelta(days=30)
    fresh = await fill(store, 2)
    assert (await store.retain("digits", RetentionRules(max_age=timedelta(days=29)))).samples == 3
    assert [row.id for row in await stored(store)] == fresh
    assert len(await stored(store, "sounds")) == 2
    assert len(blobs.blobs) == 2


async def test_above_a_number_the_alike_go_before_the_unlike(samples):
    ids = await fill(samples, 6, embedding=lambda n: unit((0, 90, 1, 180, 2, 270)[n]))
    assert (await samples.retain("digits", RetentionRules(max_samples=4))).samples == 2
    assert await kept(samples, ids) == [0, 1, 3, 5]


async def test_above_a_number_the_certain_go_before_the_uncertain(samples):
    ids = await fill(samples, 4, embedding=lambda n: unit(n * 90), sure=lambda n: (0.99, 0.4, 0.98, 0.5)[n])
    await samples.retain("digits", RetentionRules(max_samples=2))
    assert await kept(samples, ids) == [1, 3]


async def test_what_a_human_labelled_stays_while_anything_else_can_go(samples):
    ids = await fill(samples, 4, embedding=lambda n: unit(0), sure=lambda n: 0.99)
    await samples.label([(ids[2], 4)], by="ann")
    await samples.retain("digits", RetentionRules(max_samples=1))
    assert await kept(samples, ids) == [2]


async def test_labelled_samples_stay_however_many_there_are_and_however_old(samples):
    ids = await fill(samples, 300)
    await samples.label([(one, 4) for one in ids], by="ann")
    await fill(samples, 10)
    assert (await samples.retain("digits", RetentionRules(max_samples=300))).samples == 10
    assert await kept(samples, ids) == list(range(300))


async def test_duplicates_go_first_and_with_their_first(database, blobs):
    store = SampleStore(database, blobs, near_duplicates={"digits": 0.0})
    batch = [new(1), new(1), new(2), new(3)]
    ids = [one.header.sample_id for one in batch]
    await store.add(batch)
    await store.retain("digits", RetentionRules(max_samples=3))
    assert await kept(store, ids) == [0, 2, 3]
    await store.add([new(1)])
    await store.retain("digits", RetentionRules(max_bytes=1))
    assert await stored(store) == []
    assert blobs.blobs == {}


async def test_duplicate_that_a_human_labelled_stays_and_takes_its_firsts_place(database, blobs):
    store = SampleStore(database, blobs, near_duplicates={"digits": 0.0})
    batch = [new(1), new(1), new(2), new(3)]
    ids = [one.header.sample_id for one in batch]
    await store.add(batch)
    await store.label([(ids[1], 4)], by="ann")
    await store.retain("digits", RetentionRules(max_samples=3))
    assert 1 in await kept(store, ids)
    await store.retain("digits", RetentionRules(max_samples=1))
    assert await kept(store, ids) == [1]
    [row] = await store.page(SampleFilter(), before=None, limit=9)
    assert (row.human_label, row.duplicate_of, (await store.tensor(row)).argmax()) == (4, None, 1)


async def test_labelled_duplicate_stays_while_anything_unlabelled_can_go(database, blobs):
    store = SampleStore(database, blobs, near_duplicates={"digits": 0.0})
    batch = [new(1), new(1), *(new(n) for n in range(2, 9))]
    ids = [one.header.sample_id for one in batch]
    await store.add(batch)
    await store.label([(ids[1], 7)], by="ann")
    assert (await store.retain("digits", RetentionRules(max_samples=8))).samples == 1
    assert 1 in await kept(store, ids)
    await store.retain("digits", RetentionRules(max_samples=1))
    [row] = await stored(store)
    assert (row.id, row.duplicate_of) == (ids[1], None)
    assert int((await store.tensor(row)).argmax()) == 1


async def test_labelled_duplicates_are_held_to_a_quota_like_others(database, blobs):
    store = SampleStore(database, blobs, near_duplicates={"digits": 0.0})
    batch = [new(1) for _ in range(4)]
    ids = [one.header.sample_id for one in batch]
    await store.add(batch)
    await store.label([(one, 7) for one in ids[1:]], by="ann")
    await store.retain("digits", RetentionRules(max_per_class=2))
    assert len(await kept(store, ids)) == 3
    assert (await store.size(SampleFilter(label=7))).samples == 2


async def test_duplicates_of_a_labelled_sample_do_not_hide_what_has_bytes(database, blobs):
    store = SampleStore(database, blobs, near_duplicates={"digits": 0.0})
    ids = []
    for _ in range(5):
        batch = [new(1) for _ in range(1_000)]
        ids += [one.header.sample_id for one in batch]
        await store.add(batch)
    await store.label([(ids[0], 1)], by="ann")
    await store.add([new(2), new(3)])
    size = (await store.size(SampleFilter())).payload_bytes // 3
    await store.retain("digits", RetentionRules(max_bytes=size))
    assert await store.size(SampleFilter()) == Size(5_000, size)


async def test_task_is_counted_twice_however_many_rounds_it_takes(database, blobs):
    class Counting:
        """Counts what is asked of the database."""

        reads = 0

        def __getattr__(self, name):
            return getattr(database, name)

        def reading(self):
            self.reads += 1
            return database.reading()

    counting = Counting()
    store = SampleStore(counting, blobs)
    await fill(store, 600)
    counting.reads = 0
    assert (await store.retain("digits", RetentionRules(max_samples=10))).samples == 590
    # Half of what is there at most goes in a round: 300, 150, 75, 38, 19 and the last 8; the sweep reads a pack.
    rounds, counts, sweep = 6, 2, 1
    assert counting.reads <= rounds + counts + sweep


async def test_bytes_are_held_and_duplicates_have_none(database, blobs):
    store = SampleStore(database, blobs, near_duplicates={"digits": 0.0})
    await store.add([new(1), new(1), new(1), new(2), new(3)])
    size = (await stored(store))[0].payload_bytes
    assert (await store.retain("digits", RetentionRules(max_bytes=3 * size))).samples == 0
    assert (await store.retain("digits", RetentionRules(max_bytes=2 * size))).blobs == 1
    assert len({row.blob for row in await stored(store)}) == 2
    assert (await store.retain("digits", RetentionRules(max_bytes=size))).blobs == 1
    # Half of the pack was needed no more, so what is needed was put into a new one.
    assert sum(map(len, blobs.blobs.values())) == size


async def test_frequent_class_is_held_to_its_quota(samples):
    ids = await fill(samples, 6, label=lambda n: 0 if n < 4 else n)
    await samples.label([(ids[3], 9)], by="ann")
    await samples.retain("digits", RetentionRules(max_per_class=2))
    left = await kept(samples, ids)
    assert left[-3:] == [3, 4, 5]
    assert len(left) == 5


async def test_selection_is_informative_new_to_people_and_within_quotas(samples):
    ids = await fill(
        samples,
        6,
        embedding=lambda n: unit((0, 1, 90, 180, 270, 45)[n]),
        label=lambda n: 0 if n < 4 else 1,
        sure=lambda n: 0.5,
    )
    await samples.label([(ids[4], 1)], by="ann")
    await samples.add([new(9)])
    chosen = await samples.select("digits", limit=10)
    assert {row.id for row in chosen} == {*ids[:4], ids[5]}
    assert chosen[-1].id in {ids[0], ids[1]}
    few = await samples.select("digits", limit=10, per_class=2)
    assert [sum(row.label == label for row in few) for label in (0, 1)] == [2, 1]
    assert len(await samples.select("digits", limit=1)) == 1
    assert await samples.select("sounds", limit=3) == []


async def test_teacher_with_other_embeddings_or_labels_does_not_stop_retention(samples):
    await fill(samples, 3)
    await fill(samples, 3, embedding=lambda n: (1.0, float(n), 0.0))
    await samples.add([new(1)])
    await samples.retain("digits", RetentionRules(max_samples=2))
    assert len(await stored(samples)) == 2


def test_settings_become_rules():
    settings = RetentionSettings(max_age_days=1.5, max_samples=10, max_bytes=20, max_per_class=3)
    assert settings.rules == RetentionRules(timedelta(hours=36), 10, 20, 3)
    assert RetentionSettings().rules == RetentionRules()


def test_retention_is_no_part_of_what_a_training_run_is_told(digits_task):
    served = ServedTask.model_validate(digits_task.model_dump() | {"retention": {"max_samples": 3}})
    assert not hasattr(served.definition, "retention")


class ScriptedStore:
    """Fails as often as it is told."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.calls: list[str] = []

    async def retain(self, task, rules):
        self.calls.append(task)
        if self.failures:
            self.failures -= 1
            raise StoreError("the database failed: simulated")
        return Purged(2, 1)

    async def sweep(self):
        self.calls.append("sweep")
        return 0


async def test_retention_goes_round_and_says_an_outage_once(caplog):
    caplog.set_level(logging.INFO)
    store, naps = ScriptedStore(failures=2), []

    async def sleep(seconds):
        naps.append(seconds)
        if len(naps) == 3:
            raise asyncio.CancelledError

    rules = {"digits": RetentionRules(max_samples=1), "sounds": RetentionRules()}
    with pytest.raises(asyncio.CancelledError):
        await Retention(store, rules, every_s=5, sleep=sleep).run()
    assert store.calls == ["digits", "digits", "digits", "sounds", "sweep"]
    assert naps == [5, 5, 5]
    said = [record.message for record in caplog.records]
    assert sum("has to wait" in text for text in said) == 1
    assert sum("works again" in text for text in said) == 1
    assert "task digits: 2 samples and 1 payloads were let go" in said
