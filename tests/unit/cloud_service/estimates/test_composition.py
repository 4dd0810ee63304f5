from datetime import UTC, datetime, timedelta

import pytest

from cloud_service.estimates.composition import ENOUGH_SAMPLES, Basis, Reports, from_audits
from shared.messages import TaskCounts
from tests.sim.field import tally

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def counts(times=1):
    """Of a thousand samples: 800 sure and kept, 40 audits, 100 hard, of which 20 deferred, 60 hard and stayed."""
    one = {
        "inferences": 1_000,
        "kept": 850,
        "offloaded": 120,
        "deferred": 20,
        "audits": 40,
        "dropped": 10,
        "duplicates": 20,
        "withheld": 20,
        "over_budget": 10,
    }
    return TaskCounts(**{name: value * times for name, value in one.items()})


def test_audits_tell_how_many_stayed():
    found = from_audits([tally(30, audit=True, weight=20), tally(10, audit=True, agreed=None, weight=10)])
    assert (found.kept, found.audits, found.hard, found.left) == (30 * 19 + 10 * 9, 40, 0, 0)
    assert found.basis is Basis.AUDITS
    assert found.kept_error == pytest.approx((30 * (400 - 20) + 10 * (100 - 10)) ** 0.5)
    assert from_audits([tally(7, audit=False)]).samples == 7


def test_reports_tell_what_happened_between_them():
    reports = Reports()
    reports.add(START, counts(5), since=START)
    assert reports.composition(since=START, until=START) is None
    reports.add(START + HOUR, counts(6), since=START)
    found = reports.composition(since=START, until=START + HOUR)
    assert (found.kept, found.audits, found.hard, found.left) == (800, 40, 100, 60)
    assert (found.basis, found.samples, found.kept_error) == (Basis.TELEMETRY, 1_000, 0.0)


def test_reports_of_a_part_stand_for_the_whole_period():
    reports = Reports()
    since = START - 3 * HOUR
    reports.add(START, counts(5), since=since)
    reports.add(START + HOUR, counts(6), since=since)
    assert reports.composition(since=since, until=START + HOUR).samples == pytest.approx(4_000)


def test_device_that_is_off_kept_nothing_more():
    reports = Reports()
    for minute in range(61):
        reports.add(START + minute * HOUR / 60, counts(minute), since=START)
    found = reports.composition(since=START, until=START + 24 * HOUR)
    assert found.samples == pytest.approx(61_000, rel=0.01)


def test_report_that_is_taken_again_is_none_of_its_own():
    reports = Reports()
    for at, times in ((START, 1), (START + HOUR, 2), (START + HOUR, 2)):
        reports.add(at, counts(times), since=START)
    assert reports.composition(since=START, until=START + 24 * HOUR).samples == pytest.approx(2_000)


def test_few_samples_tell_nothing_of_the_shares():
    reports = Reports()
    assert reports.composition(since=START, until=START + HOUR) is None
    reports.add(START, TaskCounts(), since=START)
    reports.add(START + HOUR, TaskCounts(inferences=199, kept=ENOUGH_SAMPLES - 1), since=START)
    assert reports.composition(since=START, until=START + 2 * HOUR) is None
    reports.add(START + HOUR, TaskCounts(inferences=200, kept=ENOUGH_SAMPLES), since=START)
    assert reports.composition(since=START, until=START + 2 * HOUR).samples == pytest.approx(400)


def test_device_that_was_set_up_anew_begins_anew():
    reports = Reports()
    reports.add(START, counts(500), since=START)
    reports.add(START + HOUR, counts(1), since=START)
    assert reports.composition(since=START, until=START + HOUR) is None
    reports.add(START + 2 * HOUR, counts(2), since=START)
    assert reports.composition(since=START + HOUR, until=START + 2 * HOUR).samples == 1_000


def test_reports_keep_to_the_period_and_few():
    reports = Reports()
    now = START
    for number in range(2_000):
        now = START + number * HOUR / 60
        reports.add(now, counts(number), since=now - 24 * HOUR)
    assert len(reports._seen) <= 27
    found = reports.composition(since=now - 24 * HOUR, until=now)
    assert found.samples == pytest.approx(24 * 60 * 1_000, rel=0.01)
