"""What devices say of themselves is noted; while the database is away, the log says so once."""

import asyncio
import logging

from cloud_service.control import Control
from cloud_service.errors import StoreError
from cloud_service.notices import Recurring
from shared import messages
from shared.messages import DeviceState
from shared.mqtt import Received
from shared.topics import Channel, Topic
from tests.sim.ingest import until


class Away:
    """The rollouts of a service whose database is away while it is told to be."""

    away = True

    async def observe(self, device, state):
        if self.away:
            raise StoreError("the database failed: simulated")


class Silent:
    """A connection that acknowledges, and receipts that nobody sends."""

    def __init__(self):
        self.acknowledged = 0

    def acknowledge(self, message):
        self.acknowledged += 1


async def test_outage_is_logged_once_however_many_devices_there_are(fleet, caplog):
    rollouts, connection = Away(), Silent()
    faults = Recurring(logging.getLogger("cloud_service"), clock=lambda: 0.0)
    control = Control(fleet, rollouts, receipts=None, faults=faults, limit=100, batch=10)
    running = asyncio.create_task(control.run())

    async def all_say(devices):
        before = connection.acknowledged
        for n in range(devices):
            payload = messages.encode(DeviceState(online=True))
            topic = Topic("demo", f"cam-{n}", Channel.STATE)
            control.take(topic, Received(topic="", payload=payload, number=n + 1), connection)
        await until(lambda: connection.acknowledged == before + devices)

    with caplog.at_level(logging.INFO, "cloud_service.control"):
        await all_say(30)
        rollouts.away = False
        await all_say(30)
        rollouts.away = True
        await all_say(2)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING"]
    assert "cam-0" in caplog.records[0].message
    running.cancel()
