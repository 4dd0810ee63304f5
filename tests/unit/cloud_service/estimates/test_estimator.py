"""The part as a whole, over a real SQLite file: passes, restarts, outages."""

import asyncio
import logging
from datetime import timedelta

import pytest

from cloud_service.errors import StoreError
from cloud_service.estimates.composition import Basis
from cloud_service.estimates.drift import Alarm, Detectors
from cloud_service.estimates.estimator import Estimator
from cloud_service.estimates.incidents import Incidents
from cloud_service.estimates.rows import Rows
from cloud_service.estimates.settings import EstimatesSettings
from cloud_service.fleet import Fleet
from cloud_service.storage.models import Device
from shared.errors import SettingsError
from shared.messages import DeviceState, LedgerBytes, SpoolState, TaskCounts, Telemetry
from tests.unit.cloud_service.estimates.conftest import START


class Speaks:
    """Speaks once a score is above a half."""

    def update(self, value):
        return value > 0.5


def pair():
    return Detectors(Speaks(), Speaks())


@pytest.fixture
def make(database, field):
    def made(*, load=lambda: pair, rows=None, **settings):
        chosen = EstimatesSettings(**{"settle_s": 0.0, "replay_samples": 1_000, **settings})
        return Estimator(
            rows or Rows(database),
            Fleet(database, now=lambda: field.now),
            Incidents(database, now=lambda: field.now),
            agreement_goals={"digits": 0.9},
            settings=chosen,
            now=lambda: field.now,
            load_detectors=load,
        )

    return made


async def drift(field, device="cam-1"):
    """A calm stream and then one on which both detectors speak."""
    await field.upload(150, audit=True, hardness=0.1, device=device)
    await field.upload(30, audit=True, hardness=0.9, device=device)


async def opened(estimator):
    return [incident.device for incident in await estimator.incidents.all(is_open=True, limit=10)]


async def test_pass_estimates_the_fleet_and_each_device(make, field):
    await field.upload(100, audit=True)
    await field.upload(10, audit=True, agreed=False, device="cam-2")
    estimator = make()
    assert estimator.current.at is None
    await estimator.refresh()
    current = estimator.current
    assert current.at == field.now
    assert [each.device for each in current.estimates] == [None, "cam-1", "cam-2"]
    assert [each.agreement.audits for each in current.estimates] == [110, 100, 10]
    assert current.estimates[1].agreement.basis is Basis.AUDITS
    assert [(stream.device, stream.samples, stream.is_open) for stream in current.streams] == [
        ("cam-1", 100, False),
        ("cam-2", 10, False),
    ]


async def test_what_is_older_than_the_period_does_not_count(make, field):
    await field.upload(5, audit=True)
    field.later(hours=2)
    await field.upload(7, audit=True)
    estimator = make(period_s=3_600.0)
    await estimator.refresh()
    assert estimator.current.estimates[0].agreement.audits == 7


async def test_shares_come_from_two_telemetry_reports(make, field, database):
    fleet = Fleet(database, now=lambda: field.now)
    estimator = make()
    for kept in (0, 900):
        counts = TaskCounts(inferences=kept, kept=kept, duplicates=kept // 9)
        fleet.saw("cam-1", DeviceState(online=True))
        fleet.saw(
            "cam-1",
            Telemetry(seq=kept, uptime_s=1.0, tasks={"digits": counts}, ledger=LedgerBytes(), spool=SpoolState()),
        )
        await fleet.flush()
        await estimator.refresh()
        field.later(minutes=10)
    await field.upload(20, audit=True)
    await estimator.refresh()
    found = estimator.current.estimates[1].agreement
    assert found.basis is Basis.TELEMETRY
    assert (found.kept, found.left) == (pytest.approx(8 / 9), pytest.approx(1 / 9))
    assert (estimator.current.online, estimator.current.offline) == (1, 0)


def telemetry(seq, kept):
    counts = TaskCounts(inferences=kept, kept=kept)
    return Telemetry(seq=seq, uptime_s=float(seq), tasks={"digits": counts}, ledger=LedgerBytes(), spool=SpoolState())


async def test_telemetry_counts_from_when_it_came_and_not_from_the_last_sample(make, field, database):
    fleet = Fleet(database, now=lambda: field.now)
    estimator = make()
    await field.upload(20, audit=True)
    for seq, kept in enumerate((0, 1_000)):
        fleet.saw("cam-1", telemetry(seq, kept))
        await fleet.flush()
        await estimator.refresh()
        field.later(hours=1)
    before = estimator.current.estimates[1].agreement.samples
    # Three more hours in which it sends samples and no telemetry.
    for _ in range(3):
        field.later(hours=1)
        fleet.saw("cam-1")
        await fleet.flush()
        await estimator.refresh()
    assert estimator.current.estimates[1].agreement.samples == pytest.approx(2 * before, rel=0.01)


async def test_telemetry_of_another_version_ends_nothing_and_is_said_once(make, field, database, caplog):
    await field.upload(20, audit=True)
    fleet = Fleet(database, now=lambda: field.now)
    fleet.saw("cam-1", telemetry(1, 500))
    await fleet.flush()
    async with database.writing() as session:
        row = await session.get(Device, "cam-1")
        row.telemetry = {**row.telemetry, "tasks": {"digits": {"inferences": 500, "invented": 1}}}
    estimator = make()
    for _ in range(2):
        await estimator.refresh()
    assert estimator.current.estimates[1].agreement.basis is Basis.AUDITS
    assert len([record for record in caplog.records if "cannot be read" in record.getMessage()]) == 1


async def test_late_verdicts_follow_the_setting(make, field):
    await field.upload(100, agreed=False, after_s=5.0)
    for limit, final in ((None, 1.0), (1.0, 0.0)):
        estimator = make(corrected_within_s=limit)
        await estimator.refresh()
        assert estimator.current.estimates[0].agreement.final.value == pytest.approx(final)


async def test_two_detectors_make_an_incident_and_silence_ends_it(make, field):
    estimator = make()
    await estimator.refresh()
    await drift(field)
    await estimator.refresh()
    assert await opened(estimator) == ["cam-1"]
    assert estimator.current.streams[0].alarms == {Alarm.ADWIN, Alarm.PAGE_HINKLEY}
    await field.upload(500, audit=True, hardness=0.1)
    await estimator.refresh()
    assert await opened(estimator) == []
    (incident,) = await estimator.incidents.all(limit=10)
    assert incident.closed_because == "no detector has spoken for 500 samples of the stream"


async def test_samples_wait_until_they_have_settled(make, field):
    await field.upload(1, audit=True)
    estimator = make(settle_s=10.0)
    await estimator.refresh()
    assert estimator.current.streams == ()
    field.later(seconds=11)
    await estimator.refresh()
    assert [stream.samples for stream in estimator.current.streams] == [1]


async def test_restart_knows_what_stood_and_opens_nothing_twice(make, field):
    first = make()
    await first.refresh()
    await drift(field)
    await first.refresh()
    assert await opened(first) == ["cam-1"]
    second = make()
    await second.refresh()
    await second.refresh()
    assert len(await second.incidents.all(limit=10)) == 1
    assert [(s.samples, s.is_open) for s in second.current.streams] == [(180, True)]


async def test_incidents_of_several_devices_come_with_one_pass(make, field):
    estimator = make()
    await estimator.refresh()
    for device in ("cam-1", "cam-2", "cam-3"):
        await drift(field, device)
    await estimator.refresh()
    assert await opened(estimator) == ["cam-3", "cam-2", "cam-1"]


async def test_devices_beyond_the_limit_are_not_watched_and_that_is_said_once(make, field, caplog):
    estimator = make(watched_streams=1)
    for _ in range(3):
        for device in ("cam-1", "cam-2"):
            await field.upload(2, audit=True, device=device)
        await estimator.refresh()
    assert [stream.device for stream in estimator.current.streams] == ["cam-1"]
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "task digits: not all devices are watched for drift: raise [estimates] watched_streams"
    ]


async def test_restart_notes_what_stands_and_was_never_noted(make, field):
    await drift(field)
    estimator = make()
    await estimator.refresh()
    assert await opened(estimator) == ["cam-1"]


async def test_restart_does_not_bring_back_what_was_over(make, field):
    await drift(field)
    await field.upload(600, audit=True, hardness=0.1)
    estimator = make()
    for _ in range(2):
        await estimator.refresh()
    assert await estimator.incidents.all(limit=10) == []


async def test_restart_replays_no_more_than_it_is_told(make, field):
    await field.upload(50, audit=True)
    estimator = make(replay_samples=20)
    await estimator.refresh()
    assert estimator.current.streams[0].samples == 20
    await field.upload(5, audit=True)
    await estimator.refresh()
    assert estimator.current.streams[0].samples == 25
    nothing = make(replay_samples=0)
    await nothing.refresh()
    assert nothing.current.streams == ()


class Flaky(Rows):
    """A database that fails when told to."""

    broken = False

    async def tallies(self, task, *, since, in_time_s):
        if self.broken:
            raise StoreError("the database failed: gone")
        return await super().tallies(task, since=since, in_time_s=in_time_s)


async def test_outage_is_logged_once_and_passed(make, field, database, caplog):
    rows = Flaky(database)
    estimator = make(rows=rows)
    passes = 0

    async def sleep(_seconds):
        nonlocal passes
        passes += 1
        rows.broken = passes < 3
        if passes == 5:
            raise asyncio.CancelledError

    rows.broken = True
    estimator._sleep = sleep
    with caplog.at_level(logging.INFO, logger="cloud_service.estimates"), pytest.raises(asyncio.CancelledError):
        await estimator.run()
    assert [record.getMessage() for record in caplog.records] == [
        "no new estimates: the database failed: gone",
        "estimates are made again",
    ]
    assert estimator.current.at == START


async def test_incident_that_could_not_be_written_is_written_later(make, field, database):
    class Full(Incidents):
        broken = True

        async def begin(self, task, device, evidence):
            if self.broken:
                raise StoreError("the database failed: gone")
            await super().begin(task, device, evidence)

    estimator = make()
    estimator.incidents = Full(database)
    await estimator.refresh()
    await drift(field)
    with pytest.raises(StoreError):
        await estimator.refresh()
    estimator.incidents.broken = False
    await estimator.refresh()
    assert await opened(estimator) == ["cam-1"]
    assert [stream.samples for stream in estimator.current.streams] == [180]


async def test_without_river_the_estimates_are_made_all_the_same(make, field, caplog):
    def missing():
        raise SettingsError("type: pip install 'edgeloop[cloud]'")

    await field.upload(20, audit=True)
    estimator = make(load=missing)
    for _ in range(2):
        await estimator.refresh()
        field.later(seconds=1)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "drift is not watched: type: pip install 'edgeloop[cloud]'"
    ]
    assert estimator.current.estimates[0].agreement.audits == 20


def never():
    raise AssertionError


async def test_detectors_are_loaded_with_the_first_audit(make, field):
    await field.upload(50)
    estimator = make(load=never)
    await estimator.refresh()
    await field.upload(50)
    await estimator.refresh()
    assert estimator.current.streams == ()
    await field.upload(1, audit=True)
    with pytest.raises(AssertionError):
        await estimator.refresh()


async def test_drift_that_is_turned_off_loads_nothing(make, field):
    await drift(field)
    estimator = make(load=never, drift=False)
    await estimator.refresh()
    assert estimator.current.streams == ()


async def test_period_of_the_estimates_moves_on(make, field):
    await field.upload(10, audit=True)
    estimator = make(period_s=60.0)
    await estimator.refresh()
    field.now += timedelta(minutes=2)
    await estimator.refresh()
    assert estimator.current.estimates[0].agreement.audits == 0
