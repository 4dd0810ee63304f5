"""Filters, histograms, audits and scores."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from cloud_service.storage.samples import AuditRow, SampleFilter, SampleStore
from shared.messages import Reason
from tests.sim.stored import new, says

START = datetime(2026, 3, 1, tzinfo=UTC)


class Wall:
    """The cloud's wall clock, moved by hand."""

    def __init__(self) -> None:
        self.at = START

    def __call__(self) -> datetime:
        return self.at


async def test_unanswered_samples_are_found_without_reading_the_answered(database, database_url, samples):
    open_one = new(1)
    await samples.add([new(n % 10) for n in range(1_000)])
    await samples.answer([(row.id, says(1)) for row in await samples.page(SampleFilter(), before=None, limit=1_000)])
    await samples.add([open_one])
    assert [row.id for row in await samples.unanswered(after=0, limit=10)] == [open_one.header.sample_id]
    where = "label IS NULL AND failure IS NULL AND number > 0 ORDER BY number LIMIT 10"
    explain = "EXPLAIN QUERY PLAN" if "sqlite" in database_url else "EXPLAIN"
    async with database.writing() as session:
        await session.execute(text("ANALYZE"))
        plan = str((await session.execute(text(f"{explain} SELECT * FROM samples WHERE {where}"))).all())
    assert "samples_unanswered" in plan


@pytest.fixture
def wall():
    return Wall()


@pytest.fixture
def store(database, blobs, wall):
    return SampleStore(database, blobs, now=wall)


@pytest.fixture
async def field(store, wall):
    """Three samples, an hour apart; ids by name."""
    made = {
        "easy": new(0, hardness=0.1, bundle_version="v1"),
        "hard": new(1, hardness=0.5, bundle_version="v2", device="cam-2"),
        "audit": new(2, hardness=0.9, bundle_version="v2", reason=Reason.AUDIT),
    }
    for one in made.values():
        await store.add([one])
        wall.at += timedelta(hours=1)
    ids = {name: one.header.sample_id for name, one in made.items()}
    await store.answer([(ids["easy"], says(3)), (ids["hard"], says(4, "t2"))])
    await store.label([(ids["hard"], 5)], by="ann")
    return ids


@pytest.mark.parametrize(
    ("which", "names"),
    [
        (SampleFilter(), {"easy", "hard", "audit"}),
        (SampleFilter(task="digits", device="cam-2"), {"hard"}),
        (SampleFilter(task="sounds"), set()),
        (SampleFilter(label=3), {"easy"}),
        (SampleFilter(label=4), set()),
        (SampleFilter(label=5), {"hard"}),
        (SampleFilter(human_label=5), {"hard"}),
        (SampleFilter(human_label=3), set()),
        (SampleFilter(labelled=True), {"hard"}),
        (SampleFilter(labelled=False), {"easy", "audit"}),
        (SampleFilter(reason="audit"), {"audit"}),
        (SampleFilter(teacher="t2"), {"hard"}),
        (SampleFilter(bundle_version="v2"), {"hard", "audit"}),
        (SampleFilter(since=START + timedelta(hours=1)), {"hard", "audit"}),
        (SampleFilter(until=START + timedelta(hours=1)), {"easy"}),
        (SampleFilter(min_hardness=0.5), {"hard", "audit"}),
        (SampleFilter(max_hardness=0.5), {"easy", "hard"}),
    ],
)
async def test_filter_finds(store, field, which, names):
    found = await store.page(which, before=None, limit=10)
    assert {row.id for row in found} == {field[name] for name in names}
    assert sum(group.count for group in await store.groups(which)) == len(names)


async def test_histograms_count_final_labels_and_bin_hardness(store, wall, field):
    await store.add([new(0, hardness=score) for score in (-3.0, 0.0, 0.05, 0.9999, 1.0, 7.5)])
    found = await store.histograms("digits")
    assert found.classes == {3: 1, 5: 1}
    assert len(found.hardness) == 20
    assert {place: count for place, count in enumerate(found.hardness) if count} == {
        0: 2,
        1: 1,
        2: 1,
        10: 1,
        18: 1,
        19: 3,
    }
    assert sum((await store.histograms("digits", device="cam-2")).hardness) == 1
    assert sum((await store.histograms("digits", since=START + timedelta(hours=2))).hardness) == 7
    assert (await store.histograms("sounds")).classes == {}


async def test_audits_tell_agreement_from_accuracy(store, wall):
    made = [new(n, reason=Reason.AUDIT, prediction=1, inclusion_probability=0.05) for n in range(4)]
    await store.add([*made, new(9)])
    ids = [one.header.sample_id for one in made]
    await store.answer([(ids[0], says(1)), (ids[1], says(2)), (ids[2], says(2))])
    await store.label([(ids[1], 2), (ids[2], 1)], by="ann")
    p, at = 0.05, START
    assert await store.audits("digits", since=START) == [
        AuditRow("cam-1", True, None, None, p, at),
        AuditRow("cam-1", False, False, True, p, at),
        AuditRow("cam-1", False, True, False, p, at),
        AuditRow("cam-1", None, None, None, p, at),
    ]
    assert await store.audits("digits", since=START, until=START) == []
    assert await store.audits("digits", since=START + timedelta(seconds=1)) == []
    assert await store.audits("digits", since=START, device="cam-2") == []


async def test_scores_go_on_from_the_last_one(store):
    made = [new(n, hardness=n / 10) for n in range(5)]
    await store.add([*made[:3], new(0, task="sounds"), *made[3:]])
    first = await store.scores("digits", after=0, limit=3)
    rest = await store.scores("digits", after=first[-1].number, limit=3)
    assert [row.id for row in first + rest] == [one.header.sample_id for one in made]
    assert [row.hardness for row in rest] == [0.3, 0.4]
    assert (rest[0].device, rest[0].reason, rest[0].inclusion_probability) == ("cam-1", "hard", 1.0)
    assert await store.scores("digits", after=rest[-1].number, limit=3) == []
