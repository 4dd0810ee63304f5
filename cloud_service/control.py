"""What devices say of themselves: states, telemetry and reports, each noted before the broker may forget it."""

from __future__ import annotations

import asyncio
import logging

from cloud_service.answering import gather
from cloud_service.downlink import Receipts
from cloud_service.errors import StoreError
from cloud_service.fleet import Fleet
from cloud_service.notices import Outage, Recurring
from cloud_service.rollouts.driver import Rollouts
from shared import messages
from shared.errors import FrameError, StorageFull
from shared.messages import DeviceState, Report, Telemetry
from shared.mqtt import Connection, Received
from shared.topics import Channel, Topic

log = logging.getLogger(__name__)

Note = tuple[Topic, Received, Connection]


class Control:
    """Works one message after the other, so that a device's reports are settled in their order.

    Args:
        limit: telemetry that comes while so many messages wait is dropped, which QoS 0 allows; the broker holds the
            others back.
    """

    def __init__(
        self, fleet: Fleet, rollouts: Rollouts, *, receipts: Receipts, faults: Recurring, limit: int, batch: int
    ) -> None:
        self._fleet = fleet
        self._rollouts = rollouts
        self._receipts = receipts
        self._faults = faults
        self._limit = limit
        self._batch = batch
        self._notes: asyncio.Queue[Note] = asyncio.Queue()
        self._busy = False
        self._outage = Outage(log, "reports are stored again")
        self._unsettled = Outage(log, "devices' states settle deployments again", level=logging.WARNING)

    @property
    def idle(self) -> bool:
        return self._notes.empty() and not self._busy

    def take(self, topic: Topic, message: Received, connection: Connection) -> None:
        """Queue a message."""
        if not message.number and self._notes.qsize() >= self._limit:
            self._faults.note("dropped", f"device {topic.device}: telemetry dropped, {self._limit} messages wait")
            return
        self._notes.put_nowait((topic, message, connection))

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._busy = False
            notes = await gather(self._notes, self._batch)
            self._busy = True
            for topic, message, connection in notes:
                try:
                    await self._noted(topic, message.payload)
                except FrameError as err:
                    text = f"device {topic.device}: a {topic.channel.value} frame cannot be read: {err}"
                    self._faults.note(type(err).__name__, text)
                connection.acknowledge(message)

    async def _noted(self, topic: Topic, payload: bytes) -> None:
        match topic.channel:
            case Channel.STATE if not payload:
                log.info("device %s was removed from the broker's memory", topic.device)
            case Channel.STATE:
                await self._observe(topic.device, messages.decode(DeviceState, payload))
            case Channel.TELEMETRY:
                self._fleet.saw(topic.device, messages.decode(Telemetry, payload))
            case Channel.REPORT:
                await self._settle(topic.device, messages.decode(Report, payload))
            case other:
                self._faults.note("topic", f"device {topic.device}: nothing is expected on {other.value}")

    async def _observe(self, device: str, state: DeviceState) -> None:
        self._fleet.saw(device, state)
        try:
            await self._rollouts.observe(device, state)
        except (StorageFull, StoreError) as err:
            self._unsettled.begin(f"whether devices' states settle deployments is not known, {device}'s first: {err}")
        else:
            self._unsettled.end()

    async def _settle(self, device: str, report: Report) -> None:
        self._fleet.saw(device)
        try:
            deployed = await self._rollouts.settle(device, report)
        except (StorageFull, StoreError) as err:
            self._outage.begin(f"reports cannot be stored, the devices repeat them: {err}")
            return
        self._outage.end()
        if not deployed:
            text = f"device {device} reports {report.task} {report.version}, which was not deployed"
            self._faults.note("report", text)
        self._receipts.accept(device, report.report_id)
