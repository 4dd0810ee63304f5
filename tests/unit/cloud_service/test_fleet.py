import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from cloud_service.errors import NotFound
from cloud_service.fleet import Fleet
from shared.messages import DeviceState, LedgerBytes, SpoolState, TaskState, Telemetry

STATE = DeviceState(
    online=True, agent_version="0.1.0", tasks={"digits": TaskState(bundle_version="v1", bundle_sha256="a" * 64)}
)
TELEMETRY = Telemetry(seq=1, uptime_s=5.0, tasks={}, ledger=LedgerBytes(), spool=SpoolState(items=3))


async def test_fleet_keeps_what_devices_say_of_themselves(fleet):
    fleet.saw("cam-1", STATE)
    fleet.saw("cam-1", TELEMETRY)
    fleet.saw("cam-2")
    await fleet.flush()
    first, second = await fleet.page(limit=9)
    assert (first.name, first.online, first.agent_version) == ("cam-1", True, "0.1.0")
    assert first.tasks["digits"]["bundle_version"] == "v1"
    assert first.telemetry["spool"]["items"] == 3
    assert (second.name, second.online, second.tasks) == ("cam-2", False, {})
    assert await fleet.running("digits") == {"cam-1": "a" * 64}
    assert await fleet.running("dig") == {}


async def test_last_will_ends_presence_but_not_what_is_known(database):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    clock = iter(now + timedelta(seconds=n) for n in range(100))
    fleet = Fleet(database, now=lambda: next(clock))
    fleet.saw("cam-1", STATE)
    await fleet.flush()
    before = await fleet.device("cam-1")
    fleet.saw("cam-1", DeviceState(online=False))
    await fleet.flush()
    after = await fleet.device("cam-1")
    assert not after.online
    assert after.tasks == before.tasks
    assert after.last_seen == before.last_seen


async def test_unknown_device_is_not_found(fleet):
    with pytest.raises(NotFound, match="cam-9"):
        await fleet.device("cam-9")


async def test_presence_is_logged_when_it_changes(fleet, caplog):
    caplog.set_level("INFO")
    for online in (True, True, False, False, True):
        fleet.saw("cam-1", STATE.model_copy(update={"online": online}))
        await fleet.flush()
    words = [record.message.rsplit(" ", 1)[1] for record in caplog.records]
    assert words == ["online", "offline", "online"]


async def test_observations_survive_a_database_that_fails_for_a_while(fleet, database, caplog):
    async def rename(old, new):
        async with database.writing() as session:
            await session.execute(text(f"ALTER TABLE {old} RENAME TO {new}"))

    await rename("devices", "hidden")
    fleet.saw("cam-1", STATE)
    await fleet.flush()
    fleet.saw("cam-1")  # a sample: nothing new about its state
    fleet.saw("cam-2")
    await fleet.flush()
    await rename("hidden", "devices")
    await fleet.flush()
    first, second = await fleet.page(limit=9)
    assert (first.name, first.online, first.tasks["digits"]["bundle_version"]) == ("cam-1", True, "v1")
    assert (second.name, second.online) == ("cam-2", False)
    assert len([r for r in caplog.records if "no such table" in r.message]) == 1


async def test_running_fleet_stores_by_itself(fleet):
    running = asyncio.create_task(fleet.run())
    fleet.saw("cam-1")
    async with asyncio.timeout(5):
        while not await fleet.page(limit=9):
            await asyncio.sleep(0)
    running.cancel()


async def test_devices_are_read_in_pages_by_name(fleet):
    names = [f"cam-{n:04}" for n in range(1_000)]
    for name in reversed(names):
        fleet.saw(name)
    fleet.saw("cam-0001", TELEMETRY)
    await fleet.flush()
    assert [device.name for device in await fleet.page(limit=2)] == names[:2]
    assert [device.name for device in await fleet.page(after="cam-0997", limit=5)] == names[998:]
    found = await fleet.reporters()
    assert [device.name for device in found] == names
    assert [device.telemetry() for device in found[:2]] == [{}, TELEMETRY.model_dump(mode="json")]
    fleet.saw("cam-1000")
    await fleet.flush()
    assert [device.name for device in await fleet.reporters()] == [*names, "cam-1000"]
