from datetime import timedelta

import pytest

from cloud_service.estimates.rows import Rows
from tests.sim.field import tally
from tests.unit.cloud_service.estimates.conftest import START, Field


@pytest.fixture
def field(either_database):
    return Field(either_database)


@pytest.fixture
def rows(either_database):
    return Rows(either_database)


def by_key(tallies):
    return sorted(tallies, key=lambda each: (each.device, each.audit, str(each.agreed), each.in_time, each.count))


async def test_uploads_are_counted_by_what_tells_them_apart(field, rows):
    await field.upload(3, audit=True, fraction=0.1)
    await field.upload(2, audit=True, agreed=False, fraction=0.5)
    await field.upload(2, agreed=False, label=3)
    await field.upload(1, agreed=None, device="cam-2")
    await field.upload(5, task="other")
    found = await rows.tallies("digits", since=START, in_time_s=None)
    assert by_key(found) == by_key(
        [
            tally(3, audit=True, weight=10.0),
            tally(2, audit=True, agreed=False, weight=2.0),
            tally(2, audit=False, agreed=False, edge_right=True, teacher_right=False),
            tally(1, audit=False, agreed=None, in_time=False, device="cam-2"),
        ]
    )


async def test_weights_add_up_over_different_chances(field, rows):
    await field.upload(1, audit=True, fraction=0.5)
    await field.upload(1, audit=True, fraction=0.25)
    (found,) = await rows.tallies("digits", since=START, in_time_s=None)
    assert (found.count, found.weight, found.squares) == (2, pytest.approx(6.0), pytest.approx(20.0))


async def test_verdict_is_in_time_within_the_limit(field, rows):
    await field.upload(2, after_s=0.5)
    await field.upload(3, after_s=2.5)
    await field.upload(4, agreed=None)
    found = await rows.tallies("digits", since=START, in_time_s=1.0)
    assert {(each.count, each.in_time) for each in found} == {(2, True), (3, False), (4, False)}


async def test_only_the_period_counts(field, rows):
    for _ in range(20):
        await field.upload(2)
        await field.upload(1, task="other")
        field.later(minutes=1)
    (found,) = await rows.tallies("digits", since=START + timedelta(minutes=15), in_time_s=None)
    assert found.count == 10
    (found,) = await rows.tallies("digits", since=START, in_time_s=None)
    assert found.count == 40
    assert await rows.tallies("digits", since=START + timedelta(hours=1), in_time_s=None) == []
    assert await rows.tallies("none", since=START, in_time_s=None) == []


async def test_scores_come_in_order_and_stop_at_the_first_that_is_too_young(field, rows):
    first = await field.upload(2, audit=True, hardness=0.1, bundle_version="v7")
    field.later(seconds=1)
    (second,) = await field.upload(1, agreed=False, hardness=0.9)
    await field.upload(1, task="other")
    field.later(seconds=30)
    await field.upload(1)
    until = START + timedelta(seconds=10)
    found = await rows.scored("digits", after=0, until=until, limit=100)
    assert [(each.id, each.score, each.audit, each.agreed, each.bundle_version) for each in found] == [
        (first[0].header.sample_id, 0.1, True, True, "v7"),
        (first[1].header.sample_id, 0.1, True, True, "v7"),
        (second.header.sample_id, 0.9, False, False, "v1"),
    ]
    assert [each.inclusion_probability for each in found] == [0.05, 0.05, 1.0]
    assert [each.number for each in await rows.scored("digits", after=found[0].number, until=until, limit=1)] == [
        found[1].number
    ]


async def test_scores_wait_behind_one_that_is_too_young(field, rows):
    """What was stored earlier and got a later number must not be read first: the cursor would leave the other out."""
    field.later(seconds=20)
    await field.upload(1)
    field.later(seconds=-15)
    await field.upload(1)
    assert await rows.scored("digits", after=0, until=START + timedelta(seconds=10), limit=9) == []
    assert len(await rows.scored("digits", after=0, until=START + timedelta(seconds=20), limit=9)) == 2


async def test_newest_number_and_one_further_back(field, rows):
    assert await rows.newest("digits", back=3) == (0, 0)
    await field.upload(5)
    numbers = [each.number for each in await rows.scored("digits", after=0, until=field.now, limit=9)]
    assert await rows.newest("digits", back=3) == (numbers[-1], numbers[1])
    assert await rows.newest("digits", back=50) == (numbers[-1], 0)
