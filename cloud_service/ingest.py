"""Reads a site's topics: samples go to be answered; states, telemetry and reports are noted here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from cloud_service.admission import Terms
from cloud_service.answering import Answering, Counts, Frame, gather
from cloud_service.downlink import Downlink, Receipts
from cloud_service.errors import StoreError
from cloud_service.fleet import Fleet
from cloud_service.notices import Outage, Recurring
from cloud_service.rollouts.driver import Rollouts
from cloud_service.settings import IngestSettings
from cloud_service.storage.samples import SampleStore
from cloud_service.teacher.worker import Teacher
from shared import messages, topics
from shared.errors import FrameError, StorageFull
from shared.messages import DeviceState, Report, Telemetry
from shared.mqtt import Connection, Identity, Received
from shared.topics import Channel, Topic, every_device

log = logging.getLogger(__name__)

_GROUP = "edgeloop"
# How often slow samples are looked for and receipts are sent.
_TICK_S = 0.25
_DRAIN_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Parts:
    """What the ingest works with."""

    terms: Mapping[str, Terms]
    teachers: Mapping[str, Teacher]
    samples: SampleStore
    fleet: Fleet
    rollouts: Rollouts
    downlink: Downlink


class Ingest:
    """Everything that comes up from the devices. `session` serves one connection, `run` works whatever came in."""

    def __init__(
        self,
        parts: Parts,
        settings: IngestSettings,
        *,
        site: str,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.identity = Identity(
            f"edgeloop-{site}-{settings.instance}",
            session_expiry_s=settings.session_expiry_s,
            max_queued=settings.max_queued,
        )
        self._fleet = parts.fleet
        self._rollouts = parts.rollouts
        self._downlink = parts.downlink
        self._site = site
        self._batch = settings.batch
        self._clock = clock
        self._sleep = sleep
        self._faults = Recurring(log, clock=clock)
        self._outage = Outage(log, "reports are stored again")
        self._receipts = Receipts(parts.downlink)
        self._notes: asyncio.Queue[tuple[Topic, bytes]] = asyncio.Queue(settings.max_queued)
        self._draining = False
        self._answering = Answering(
            settings,
            terms=parts.terms,
            teachers=parts.teachers,
            samples=parts.samples,
            downlink=parts.downlink,
            receipts=self._receipts,
            faults=self._faults,
            clock=clock,
        )

    @property
    def counts(self) -> Counts:
        return self._answering.counts

    @property
    def faults(self) -> Mapping[str, int]:
        """Frames and samples that devices got wrong, by kind."""
        return self._faults.counts

    async def session(self, connection: Connection) -> None:
        """One connection's life: subscribe, publish what devices should run, take what comes in.

        Raises:
            BrokerUnavailable: the broker went away or refused a subscription.
        """
        self._downlink.attach(connection)
        try:
            await connection.subscribe(self._filters())
            log.info("listening to the devices of site %s", self._site)
            await self._publish_desired()
            async for message in connection.messages():
                await self._take(message)
        finally:
            self._downlink.detach()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._answering.run(), name="ingest-answering")
            group.create_task(self._note(), name="ingest-notes")
            group.create_task(self._send_receipts(), name="ingest-receipts")

    async def drain(self) -> None:
        """Take no more samples; return when those under way are answered."""
        self._draining = True
        while not self._answering.idle or not self._notes.empty():  # noqa: ASYNC110  # six places would have to set an event
            await asyncio.sleep(_DRAIN_POLL_S)
        await self._receipts.flush()

    def _filters(self) -> list[str]:
        # Retained messages do not come through shared subscriptions, so every replica reads every state.
        shared_out = (Channel.SAMPLE, Channel.REPORT, Channel.TELEMETRY)
        filters = [every_device(self._site, channel, group=_GROUP) for channel in shared_out]
        return [*filters, every_device(self._site, Channel.STATE)]

    async def _publish_desired(self) -> None:
        try:
            await self._rollouts.publish()
        except StoreError as err:
            log.error("what devices should run is not published: %s", err)

    async def _take(self, message: Received) -> None:
        try:
            topic = topics.parse(message.topic)
        except FrameError as err:
            self._faults.note("topic", err)
            return
        if topic.channel is not Channel.SAMPLE:
            await self._notes.put((topic, message.payload))
        elif not self._draining:
            self._fleet.saw(topic.device)
            await self._answering.take(Frame(topic.device, message.payload, self._clock()))

    async def _note(self) -> None:
        while True:
            for topic, payload in await gather(self._notes, self._batch):
                try:
                    await self._noted(topic, payload)
                except FrameError as err:
                    text = f"device {topic.device}: a {topic.channel.value} frame cannot be read: {err}"
                    self._faults.note(type(err).__name__, text)

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
            log.warning("device %s: whether its state settles a deployment is not known: %s", device, err)

    async def _settle(self, device: str, report: Report) -> None:
        self._fleet.saw(device)
        try:
            await self._rollouts.settle(device, report)
        except (StorageFull, StoreError) as err:
            self._outage.begin(f"reports cannot be stored, the devices repeat them: {err}")
            return
        self._outage.end()
        self._receipts.accept(device, report.report_id)

    async def _send_receipts(self) -> None:
        while True:
            await self._sleep(_TICK_S)
            self._answering.receipt_slow()
            await self._receipts.flush()
