"""One simulated device: it has no model and is honest about everything else in docs/protocol.md.

It keeps each sample until a verdict or receipt names it, and sends it again after a time that doubles, and at once
after each reconnect. It sends no more at once than the broker allows, and ignores what it should run (`desired`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import UUID

from cloud_service.simulate import wire
from cloud_service.simulate.link import Link
from cloud_service.simulate.spoiling import Spoilt, spoil
from cloud_service.simulate.world import Kept, World
from shared import __version__, messages
from shared.errors import FrameError
from shared.ids import new_id
from shared.messages import (
    DeviceState,
    LedgerBytes,
    Reason,
    Receipt,
    SampleHeader,
    SpoolState,
    TaskCounts,
    TaskState,
    Telemetry,
    Verdict,
)
from shared.topics import Channel, Topic

_RESEND_CAP_S = 600.0
_KEEPALIVE_SHARE = 0.5
_SILENCE_SHARE = 1.5
_SPOILT = tuple(Spoilt)


class Device:
    """See the module.

    Args:
        on_lost: called when its open connection is lost.

    Attributes:
        opening: of whoever dials: done when the connection is open, or failed.
        online: whether it has an open connection.
    """

    __slots__ = (
        "_kept",
        "_named",
        "_on_lost",
        "_seq",
        "_telemetry_at",
        "_waiting",
        "_world",
        "link",
        "name",
        "online",
        "opening",
    )

    def __init__(self, name: str, world: World, *, on_lost: Callable[[Device, str], None]) -> None:
        self.name = name
        self.link: Link | None = None
        self.opening: asyncio.Future[None] | None = None
        self.online = False
        self._on_lost = on_lost
        self._world = world
        self._kept: dict[UUID, Kept] = {}
        self._waiting: dict[UUID, None] = {}
        self._named: dict[UUID, Kept] = {}
        self._seq = 0
        self._telemetry_at = 0.0

    @property
    def kept(self) -> int:
        """Samples without an answer."""
        return len(self._kept)

    def dial(self) -> Link:
        """A new link, to be connected by whoever asked."""
        plan = self._world.plan
        password = plan.broker.password
        hello = wire.connect(
            f"edge-{plan.site}-{self.name}",
            keepalive_s=plan.broker.keepalive_s,
            receive_maximum=plan.broker.in_flight,
            will=(self._topic(Channel.STATE), messages.encode(DeviceState(online=False))),
            username=plan.broker.username,
            password=None if password is None else password.get_secret_value().encode(),
        )
        self.link = Link(
            self,
            hello,
            tuple(map(self._topic, (Channel.VERDICT, Channel.RECEIPT, Channel.DESIRED))),
            receive_maximum=plan.broker.in_flight,
            keepalive_s=plan.broker.keepalive_s,
            clock=self._world.clock,
        )
        return self.link

    def make_sample(self, due: float) -> None:
        """The sensor has something that the device finds hard."""
        plan, tally = self._world.plan, self._world.tally
        if len(self._kept) >= plan.keeping.most:
            tally.dropped += 1
            return
        header = self._header()
        self._kept[header.sample_id] = Kept(header, self._world.rng.randrange(len(self._world.tensors)), due)
        self._waiting[header.sample_id] = None
        tally.samples += 1
        self._world.note("made", header.sample_id)
        self.room()

    def look(self, now: float) -> None:
        """Do what is due by the clock: repeat, report, ask for a sign of life, give up on a silent broker."""
        link = self.link
        if link is None or not self.online:
            return
        if now - link.last_heard > _SILENCE_SHARE * link.keepalive_s:
            link.cut("the broker is silent")
            return
        again_s = self._world.plan.keeping.resend_after_s
        for sample_id, kept in self._kept.items():
            wait = min(again_s * 2 ** (kept.tries - 1), _RESEND_CAP_S) if kept.tries else 0.0
            if kept.tries and now - kept.sent >= wait:
                self._waiting[sample_id] = None
        self.room()
        if now >= self._telemetry_at:
            self._telemetry_at = now + self._world.plan.telemetry_s
            link.publish(self._topic(Channel.TELEMETRY), messages.encode(self._telemetry(now)), qos=0)
        if now - link.last_sent >= _KEEPALIVE_SHARE * link.keepalive_s:
            link.ping()

    def leave(self) -> None:
        """Say that it goes, and go."""
        if self.link is not None and self.online:
            self._say_state(online=False)
            self.link.close()

    def give_up(self) -> None:
        """Nobody waits for the connection that is being opened."""
        if self.link is not None:
            self.link.cut("it took too long to open")

    def opened(self) -> None:
        self.online = True
        if self.opening is not None and not self.opening.done():
            self.opening.set_result(None)
        self._world.tally.connections += 1
        # The first report at a time of its own, so that a fleet does not report all at once.
        self._telemetry_at = self._world.clock() + self._world.rng.random() * self._world.plan.telemetry_s
        self._waiting = dict.fromkeys(self._kept)
        self._say_state(online=True)
        self.room()

    def room(self) -> None:
        while self._waiting and self.link is not None and self.link.free:
            sample_id = next(iter(self._waiting))
            del self._waiting[sample_id]
            self._transmit(self._kept[sample_id])

    def received(self, topic: str, payload: bytes) -> None:
        try:
            if topic.endswith(Channel.VERDICT):
                self._answered(messages.decode(Verdict, payload))
            elif topic.endswith(Channel.RECEIPT):
                self._receipted(messages.decode(Receipt, payload))
        except FrameError:
            self._world.tally.unreadable += 1

    def closed(self, why: str) -> None:
        if self.link is not None:
            self._world.tally.broker_refused += self.link.refused
        was_online, self.online, self.link = self.online, False, None
        self._world.tally.disconnects += was_online
        self._world.tally.failed += not was_online
        if was_online:
            self._on_lost(self, why)
        elif self.opening is not None and not self.opening.done():
            self.opening.set_exception(ConnectionError(why))

    def _transmit(self, kept: Kept) -> None:
        world, link = self._world, self.link
        assert link is not None
        plan, tally, now = world.plan, world.tally, world.clock()
        age_ms = int((now - kept.due) * 1e3)
        left = None if plan.samples.deadline_ms is None else max(0, plan.samples.deadline_ms - age_ms)
        frame = messages.encode_sample(kept.header, world.tensors[kept.row], age_ms=age_ms, deadline_ms=left)
        if kept.tries == 0:
            tally.late_start.add(now - kept.due)
        else:
            tally.resent += 1
        kept.tries += 1
        kept.sent = now
        tally.transmissions += 1
        topic = self._topic(Channel.SAMPLE)
        link.publish(topic, frame, qos=1)
        if plan.faults.duplicates and world.rng.random() < plan.faults.duplicates:
            tally.duplicates += link.publish(topic, frame, qos=1)
        if plan.faults.malformed and world.rng.random() < plan.faults.malformed:
            # Of another sample: a flipped bit may leave a frame that is valid, and a refusal would name this one.
            frame = messages.encode_sample(self._header(), world.tensors[kept.row])
            kind = world.rng.choice(_SPOILT)
            tally.spoilt[kind.value] += link.publish(topic, spoil(frame, kind, world.rng), qos=1)

    def _answered(self, verdict: Verdict) -> None:
        world = self._world
        kept = self._let_go(verdict.sample_id) or self._named.pop(verdict.sample_id, None)
        if kept is None:
            world.tally.repeated += 1
            return
        took_s = world.clock() - kept.due
        world.tally.verdicts += 1
        world.tally.verdict.add(took_s)
        world.tally.late += world.plan.samples.deadline_ms is not None and took_s * 1e3 > world.plan.samples.deadline_ms
        world.note("verdict", verdict.sample_id)

    def _receipted(self, receipt: Receipt) -> None:
        world = self._world
        for sample_id in receipt.accepted:
            kept = self._let_go(sample_id)
            if kept is None:
                world.tally.repeated += 1
                continue
            world.tally.receipted += 1
            world.tally.receipt.add(world.clock() - kept.due)
            world.note("receipted", sample_id)
            # Its verdict may still come, and how late is worth knowing.
            self._named[sample_id] = kept
            if len(self._named) > world.plan.keeping.most:
                del self._named[next(iter(self._named))]
        for refusal in receipt.refused:
            if self._let_go(refusal.message_id) is None:
                world.tally.repeated += 1
                continue
            world.tally.refused += 1
            world.note("refused", refusal.message_id)

    def _let_go(self, sample_id: UUID) -> Kept | None:
        self._waiting.pop(sample_id, None)
        return self._kept.pop(sample_id, None)

    def _header(self) -> SampleHeader:
        plan, rng = self._world.plan, self._world.rng
        self._seq += 1
        audit = rng.random() < plan.samples.audits
        return SampleHeader(
            sample_id=new_id(),
            task=plan.samples.task,
            seq=self._seq,
            bundle_version="simulated",
            prediction=rng.randrange(plan.samples.labels),
            hardness=rng.uniform(0.0, 0.5) if audit else rng.uniform(0.5, 1.0),
            reason=Reason.AUDIT if audit else Reason.HARD,
            inclusion_probability=plan.samples.audits if audit else 1.0,
        )

    def _say_state(self, *, online: bool) -> None:
        assert self.link is not None
        tasks = {self._world.plan.samples.task: TaskState(bundle_version="simulated", bundle_sha256="0" * 64)}
        state = DeviceState(online=online, agent_version=f"simulated by {__version__}", tasks=tasks)
        self.link.publish(self._topic(Channel.STATE), messages.encode(state), qos=1, retain=True)

    def _telemetry(self, now: float) -> Telemetry:
        counts = TaskCounts(inferences=self._seq, offloaded=self._seq)
        return Telemetry(
            seq=self._seq,
            uptime_s=now,
            tasks={self._world.plan.samples.task: counts},
            ledger=LedgerBytes(),
            spool=SpoolState(items=len(self._kept)),
        )

    def _topic(self, channel: Channel) -> str:
        return str(Topic(self._world.plan.site, self.name, channel))
