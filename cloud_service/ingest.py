"""Everything that comes up from a site's devices: two connections, and the parts behind them.

Samples come in on a connection of their own, where the broker waits for each to be stored; states, telemetry and
reports on another, which also carries what goes down. So a backlog of samples holds back samples alone
(docs/adr/0009-samples-on-a-connection-of-their-own.md).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from cloud_service.admission import Terms
from cloud_service.answering import Answering, Counts
from cloud_service.control import Control
from cloud_service.downlink import Downlink, Receipts
from cloud_service.errors import StoreError
from cloud_service.fleet import Fleet
from cloud_service.latencies import Latencies
from cloud_service.notices import Outage, Recurring
from cloud_service.orphans import Orphans
from cloud_service.rollouts.driver import Rollouts
from cloud_service.settings import IngestSettings
from cloud_service.storage.samples import SampleStore
from cloud_service.storing import Storing
from cloud_service.teacher.worker import Teacher
from shared import topics
from shared.errors import FrameError
from shared.mqtt import Connection, Connector, Identity, Received, together
from shared.topics import Channel, Topic, every_device

log = logging.getLogger(__name__)

_GROUP = "edgeloop"
# How often slow samples are looked for and receipts are sent.
_TICK_S = 0.25
_DRAIN_POLL_S = 0.02
_LAST_RECEIPTS_S = 1.0
# What a sample takes in memory beside its tensor.
_BESIDE_TENSOR = 4_096
# States, reports and telemetry that are taken before the first of them is noted.
_HOLD_NOTES = 5_000
_MAX_NOTES = 4_000


@dataclass(frozen=True, slots=True)
class Parts:
    """What the ingest works with; `top_k`: how many classes a task's verdicts name, all where it is not said."""

    terms: Mapping[str, Terms]
    teachers: Mapping[str, Teacher]
    samples: SampleStore
    fleet: Fleet
    rollouts: Rollouts
    downlink: Downlink
    top_k: Mapping[str, int] = field(default_factory=dict)


class Ingest:
    """`session` is the life of a connection that whoever owns this keeps up; `run` works whatever comes in.

    Args:
        connect: opens the second connection, that of the samples; it lives and ends with the first.
        instance: this replica's own name; its sessions at the broker are found again under it.
    """

    def __init__(
        self,
        parts: Parts,
        settings: IngestSettings,
        *,
        connect: Connector,
        site: str,
        instance: str,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.counts = Counts()
        self.latencies = Latencies()
        self._fleet = parts.fleet
        self._rollouts = parts.rollouts
        self._downlink = parts.downlink
        self._connect = connect
        self._instance = instance
        self._site = site
        self._receipt_after_s = settings.receipt_after_s
        self._max_held = settings.max_held
        self._backlog = Outage(log, "samples are taken as they come again", level=logging.WARNING)
        self._clock = clock
        self._sleep = sleep
        self._draining = False
        self._faults = faults = Recurring(log, clock=clock)
        self._receipts = receipts = Receipts(parts.downlink)
        room = _room(parts.terms, settings.max_held_bytes)
        news = asyncio.Event()
        self._answering = Answering(
            teachers=parts.teachers,
            top_k=parts.top_k,
            samples=parts.samples,
            downlink=parts.downlink,
            receipts=receipts,
            faults=faults,
            counts=self.counts,
            latencies=self.latencies,
            limit=min(settings.max_under_way, room),
            batch=settings.batch,
            freed=news,
            clock=clock,
        )
        self._storing = Storing(
            terms=parts.terms,
            samples=parts.samples,
            answering=self._answering,
            receipts=receipts,
            faults=faults,
            counts=self.counts,
            latencies=self.latencies,
            max_bytes=settings.max_frame_bytes,
            batch=settings.batch,
            company_s=settings.company_s,
            news=news,
            clock=clock,
        )
        self._control = Control(
            parts.fleet, parts.rollouts, receipts=receipts, faults=faults, limit=_MAX_NOTES, batch=settings.batch
        )
        self.orphans = Orphans(
            parts.samples,
            self._answering,
            tasks=parts.teachers.keys(),
            counts=self.counts,
            after_s=settings.orphan_after_s,
            batch=settings.batch,
            clock=clock,
            sleep=sleep,
        )
        name, expiry_s = f"edgeloop-{site}-{instance}", settings.session_expiry_s
        self.identity = Identity(name, session_expiry_s=expiry_s, hold=_HOLD_NOTES)
        self._sample_identity = Identity(
            f"{name}-samples",
            session_expiry_s=expiry_s,
            hold=settings.max_held,
            hold_bytes=settings.max_held_bytes,
        )

    @property
    def faults(self) -> Mapping[str, int]:
        """Frames and samples that devices got wrong, by kind."""
        return self._faults.counts

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._answering.run(), name="ingest-answering")
            group.create_task(self._storing.run(), name="ingest-storing")
            group.create_task(self._control.run(), name="ingest-control")
            group.create_task(self._tick(), name="ingest-receipts")

    async def drain(self) -> None:
        """Take no more samples; return when those under way are answered. The broker keeps all others."""
        self._draining = True
        self._storing.forget()
        self.orphans.leave()
        try:
            while not (self._storing.idle and self._answering.idle and self._control.idle):  # noqa: ASYNC110  # six places would have to set an event
                await asyncio.sleep(_DRAIN_POLL_S)
        finally:
            # Also when the time for it has run out: what is noted needs not to be sent again.
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_RECEIPTS_S):
                    await self._receipts.flush()

    @property
    def waiting(self) -> int:
        """Samples in memory that are not stored yet."""
        return self._storing.waiting

    async def session(self, connection: Connection) -> None:
        """One connection's life, and that of the samples' beside it.

        Raises:
            BrokerUnavailable: the broker went away or refused a subscription.
        """
        async with self._connect(self._sample_identity) as second:
            await second.subscribe([every_device(self._site, Channel.SAMPLE, group=_GROUP)])
            # Retained messages do not come through shared subscriptions, so every replica reads every state.
            shared_out = [every_device(self._site, each, group=_GROUP) for each in (Channel.REPORT, Channel.TELEMETRY)]
            await connection.subscribe([*shared_out, every_device(self._site, Channel.STATE)])
            self._downlink.attach(connection)
            try:
                log.info("listening to the devices of site %s as %s", self._site, self._instance)
                # Beside the reading: the broker's word on what is published comes behind all that it has sent, and
                # nothing more is read while as many states are held as may be.
                await together(
                    {
                        "control": self._read_notes(connection),
                        "desired": self._publish_desired(),
                        "samples": self._read_samples(second),
                    }
                )
            finally:
                self._downlink.detach()
                self._storing.forget()

    async def _read_notes(self, connection: Connection) -> None:
        async for message in connection.messages():
            topic = self._topic(message, connection)
            if topic is not None:
                self._control.take(topic, message, connection)

    async def _read_samples(self, connection: Connection) -> None:
        async for message in connection.messages():
            if self._draining:
                continue
            topic = self._topic(message, connection)
            if topic is not None:
                self._fleet.saw(topic.device)
                self._storing.take(topic.device, message, connection)

    def _topic(self, message: Received, connection: Connection) -> Topic | None:
        try:
            topic = topics.parse(message.topic)
            if topic.site == self._site:
                return topic
            self._faults.note("topic", f"topic {message.topic!r} is of another site than {self._site}")
        except FrameError as err:
            self._faults.note("topic", err)
        connection.acknowledge(message)
        return None

    async def _publish_desired(self) -> None:
        try:
            await self._rollouts.publish()
        except StoreError as err:
            log.error("what devices should run is not published: %s", err)

    async def _tick(self) -> None:
        while True:
            await self._sleep(_TICK_S)
            self._say_backlog()
            self._storing.retry()
            self._faults.summarise()
            self._answering.receipt_slow(self._clock() - self._receipt_after_s)
            await self._receipts.flush()

    def _say_backlog(self) -> None:
        if self.waiting >= self._max_held:
            self._backlog.begin(
                f"samples come faster than they are answered: {self.waiting} wait, the broker has the rest"
            )
        elif not self.waiting:
            self._backlog.end()


def _room(terms: Mapping[str, Terms], max_bytes: int) -> int:
    """How many samples of the largest task fit into so many bytes."""
    sizes = [math.prod(each.input.shape) * np.dtype(each.input.dtype).itemsize for each in terms.values()]
    return max(1, max_bytes // (max(sizes, default=0) + _BESIDE_TENSOR))
