"""The way in of a sample: frame → admitted → stored (batch commit) → acknowledged → handed on to be answered.

The broker is told that we have a frame when it is stored, not before. So a replica that dies loses nothing that the
broker gave it, and one that cannot store or answer fast enough leaves the rest with the broker: no more than the
connection's receive maximum is in memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from uuid import UUID

from cloud_service.admission import Terms, admit
from cloud_service.answering import Answering, Counts, Work
from cloud_service.downlink import Receipts
from cloud_service.errors import StoreError
from cloud_service.latencies import Latencies
from cloud_service.notices import Outage, Recurring
from cloud_service.storage.samples import SampleStore
from cloud_service.storage.values import Known, NewSample
from shared.errors import FrameError, StorageFull
from shared.messages import Reason, Refusal
from shared.mqtt import Connection, Received

log = logging.getLogger(__name__)

# During an outage of the store it is tried this often.
RETRY_S = 1.0
# Stored samples that are remembered, because devices repeat what they take for lost: half a minute of 700 a second.
_MET = 20_000


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A sample that came in; `at`: on the service's clock."""

    sample: NewSample
    at: float
    connection: Connection
    message: Received

    @property
    def sample_id(self) -> UUID:
        return self.sample.header.sample_id

    @property
    def to_be_stored(self) -> bool:
        return self.sample.header.training_use

    def acknowledge(self) -> None:
        """The broker may forget it."""
        self.connection.acknowledge(self.message)


class Storing:
    """Stores samples and hands them on.

    Args:
        terms: what each task takes; each has a teacher.
        max_bytes: a larger frame is refused undecoded.
        batch: samples in one commit.
        company_s: how long a sample that nobody waits for waits for others to be stored with.
        news: set when there may be something to do: a frame came in, or there is room to answer one.
        receipts: takes refusals; whoever owns it flushes it.
        faults: counts and logs what devices got wrong.
    """

    def __init__(
        self,
        *,
        terms: Mapping[str, Terms],
        samples: SampleStore,
        answering: Answering,
        receipts: Receipts,
        faults: Recurring,
        counts: Counts,
        latencies: Latencies,
        max_bytes: int,
        batch: int,
        company_s: float,
        news: asyncio.Event,
        clock: Callable[[], float],
    ) -> None:
        self._terms = terms
        self._samples = samples
        self._answering = answering
        self._receipts = receipts
        self._faults = faults
        self._counts = counts
        self._latencies = latencies
        self._max_bytes = max_bytes
        self._batch = batch
        self._company_s = company_s
        self._clock = clock
        # What somebody waits for, and the rest.
        self._wanted: deque[Arrival] = deque()
        self._others: deque[Arrival] = deque()
        self._unstored: list[Arrival] = []
        self._met: dict[UUID, None] = {}
        self._news = news
        self._at_once = asyncio.Event()
        self._busy = False
        self._next_try = float("-inf")
        self._outage = Outage(log, "samples are stored again")

    @property
    def idle(self) -> bool:
        """Whether nothing waits that can be stored now."""
        return not (self._wanted or self._others or self._busy)

    @property
    def waiting(self) -> int:
        """Samples in memory that are not stored."""
        return len(self._wanted) + len(self._others) + len(self._unstored)

    def take(self, device: str, message: Received, connection: Connection) -> None:
        """Admit or refuse a frame."""
        self._counts.samples += 1
        try:
            result = admit(device, message.payload, terms=self._terms, max_bytes=self._max_bytes)
        except FrameError as err:
            self._faults.note(type(err).__name__, f"device {device}: a sample frame cannot be read: {err}")
            connection.acknowledge(message)
            return
        if isinstance(result, Refusal):
            self._counts.refused += 1
            self._faults.note("Refusal", f"device {device}: sample {result.message_id} refused: {result.reason}")
            self._receipts.refuse(device, result)
            connection.acknowledge(message)
            return
        queue = self._others if result.header.deadline_ms is None else self._wanted
        queue.append(Arrival(result, self._clock(), connection, message))
        self._news.set()
        if self._wanted or len(self._others) >= self._batch:
            self._at_once.set()

    def retry(self) -> None:
        """Try again what could not be stored, if it is time."""
        if self._unstored and self._clock() >= self._next_try:
            self._others.extendleft(reversed(self._unstored))
            self._unstored.clear()
            self._news.set()

    def forget(self) -> None:
        """Leave what is not stored yet to the broker: it gives all of it to the next connection, ours or another's."""
        for waiting in (self._wanted, self._others, self._unstored):
            waiting.clear()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._news.clear()
            while self._can_begin:
                await self._company()
                self._busy = True
                await self._store(self._next())
                self._busy = False
            await self._news.wait()

    @property
    def _can_begin(self) -> bool:
        wanted = self._wanted and self._answering.room(wanted=True) > 0
        return bool(wanted or (self._others and self._answering.room() > 0))

    async def _company(self) -> None:
        """Wait for more to store in one commit, unless somebody waits or there is enough."""
        self._at_once.clear()
        if self._wanted or len(self._others) >= self._batch:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._company_s):
                await self._at_once.wait()

    def _next(self) -> list[Arrival]:
        """What is stored now: no more than there is room to answer."""
        batch: list[Arrival] = []
        for queue, room in ((self._wanted, self._answering.room(wanted=True)), (self._others, self._answering.room())):
            count = min(len(queue), self._batch - len(batch), max(0, room - len(batch)))
            batch += [queue.popleft() for _ in range(count)]
        return batch

    async def _store(self, batch: Sequence[Arrival]) -> None:
        if not batch:
            return  # the connection went away meanwhile, and all was left to the broker
        first: dict[UUID, Arrival] = {}
        for one in batch:
            if one.sample_id in first or self._answering.has(one.sample_id):
                one.acknowledge()  # its twin is here
            else:
                first[one.sample_id] = one
        known, failed = await self._stored(first)
        for one in failed:
            del first[one.sample_id]
        self._unstored += failed
        for one in first.values():
            if one.to_be_stored or one.sample_id in known:
                one.acknowledge()
        for one in first.values():
            await self._hand_on(one, known.get(one.sample_id))

    async def _stored(self, first: Mapping[UUID, Arrival]) -> tuple[Mapping[UUID, Known], list[Arrival]]:
        """What was known of them, and those that should be stored and are not."""
        known: dict[UUID, Known] = {}
        fresh = [one for one in first.values() if one.to_be_stored]
        # The addition tells of most whether they are known. Looked up before are those whose payload it need not put.
        asked = [one.sample_id for one in first.values() if not one.to_be_stored or one.sample_id in self._met]
        try:
            known = await self._samples.known(asked)
            fresh = [one for one in fresh if one.sample_id not in known]
            if fresh and self._clock() < self._next_try:
                return known, fresh
            here = await self._samples.add([one.sample for one in fresh])
        except (StorageFull, StoreError) as err:
            self._outage.begin(f"samples cannot be stored, the broker and the devices keep them: {err}")
            self._next_try = self._clock() + RETRY_S
            return known, fresh
        if fresh:
            self._meet(fresh)
            self._counts.stored += len(fresh) - len(here)
            now = self._clock()
            for one in fresh:
                self._latencies.note_stored(one.sample.header.task, now - one.at)
            self._next_try = float("-inf")
            self._outage.end()
        return known | here, []

    def _meet(self, stored: Iterable[Arrival]) -> None:
        """Remember these, and forget the oldest."""
        self._met.update((one.sample_id, None) for one in stored)
        for old in list(islice(self._met, max(0, len(self._met) - _MET))):
            del self._met[old]

    async def _hand_on(self, one: Arrival, known: Known | None) -> None:
        header = one.sample.header
        self._counts.redelivered += known is not None
        self._counts.unstored += not header.training_use
        stored = header.training_use or known is not None
        work = Work(
            header.sample_id,
            one.sample.device,
            header.task,
            one.sample.tensor,
            one.at,
            stored,
            audit=header.reason is Reason.AUDIT,
            wanted_until=None if header.deadline_ms is None else one.at + header.deadline_ms / 1e3,
        )
        if not stored:
            work.release = one.acknowledge
        if known is not None and known.failure is not None:
            self._receipts.accept(work.device, work.sample_id)
        elif known is not None and known.answer is not None:
            await self._answering.publish(work, known.answer)
        else:
            self._answering.begin(work)
