"""From a sample to its verdict: teacher → verdict stored (batch commit) → published.

What breaks on the way is not repaired here: the device keeps a sample until a verdict or a receipt names it and sends
it again, what is stored without a verdict is found again (`orphans.py`), and every step is idempotent by sample id.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from cloud_service.downlink import Downlink, Receipts
from cloud_service.errors import Expired, StoreError, TeacherError
from cloud_service.latencies import Latencies
from cloud_service.notices import Outage, Recurring
from cloud_service.storage.samples import SampleStore
from cloud_service.storage.values import Answer
from cloud_service.teacher.batcher import Priority
from cloud_service.teacher.worker import Teacher
from cloud_service.verdict import verdict_of
from shared.codec import Array
from shared.errors import ConnectionLost, StorageFull
from shared.messages import Refusal
from shared.topics import Channel

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(slots=True)
class Counts:
    """What this process has seen since it started.

    Attributes:
        unstored: answered but not kept (`training_use = false`).
        expired: of those, dropped because nobody waited any more when their turn came.
        adopted: stored by a process that ended before it had answered them, and answered by this one.
    """

    samples: int = 0
    stored: int = 0
    redelivered: int = 0
    unstored: int = 0
    expired: int = 0
    adopted: int = 0
    refused: int = 0
    verdicts: int = 0
    teacher_failures: int = 0


def _nothing() -> None:
    """There is nothing to acknowledge."""


@dataclass(slots=True, eq=False)
class Work:
    """A sample between its arrival and its verdict.

    Attributes:
        arrived: on the service's clock; `wanted_until`: the same, or None when nobody waits.
        stored: it has a row, so it may train students, and its verdict is stored.
        release: called once when the sample is answered or given up.
    """

    sample_id: UUID
    device: str
    task: str
    tensor: Array
    arrived: float
    stored: bool
    audit: bool = False
    wanted_until: float | None = None
    release: Callable[[], None] = _nothing
    receipted: bool = False


class Answering:
    """Answers samples.

    Args:
        teachers: by task.
        top_k: how many classes a verdict of each task names; a task that is not in it: all.
        limit: samples between their storage and their verdict; what somebody waits for may be as many again.
        freed: set whenever one of them has ended.
        batch: verdicts in one commit.
        receipts: takes what devices may let go of; whoever owns it flushes it.
        faults: counts and logs what devices got wrong.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        teachers: Mapping[str, Teacher],
        top_k: Mapping[str, int],
        samples: SampleStore,
        downlink: Downlink,
        receipts: Receipts,
        faults: Recurring,
        counts: Counts,
        latencies: Latencies,
        limit: int,
        batch: int,
        freed: asyncio.Event,
        clock: Callable[[], float],
    ) -> None:
        self._teachers = teachers
        self._top_k = top_k
        self._samples = samples
        self._downlink = downlink
        self._receipts = receipts
        self._faults = faults
        self._counts = counts
        self._latencies = latencies
        self._batch = batch
        self._clock = clock
        self._limit = limit
        self._freed = freed
        self._under_way: dict[UUID, Work] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._answers: asyncio.Queue[tuple[Work, Answer]] = asyncio.Queue()
        self._outage = Outage(log, "verdicts are stored again")

    @property
    def idle(self) -> bool:
        return not self._under_way

    def has(self, sample_id: UUID) -> bool:
        """Whether a sample is under way."""
        return sample_id in self._under_way

    def room(self, *, wanted: bool = False) -> int:
        """How many samples may begin now; `wanted`: of those that somebody waits for."""
        return (2 if wanted else 1) * self._limit - len(self._under_way)

    def begin(self, work: Work) -> None:
        """Have a sample answered, for which there is room."""
        if work.sample_id in self._under_way:
            work.release()
            return
        self._under_way[work.sample_id] = work
        asking = asyncio.create_task(self._ask(work), name=f"answer-{work.task}")
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)

    async def run(self) -> None:
        """Store and publish what the teachers say until cancelled."""
        try:
            while True:
                await self._answer_back(await gather(self._answers, self._batch))
        finally:
            for asking in self._asking:
                asking.cancel()
            await asyncio.gather(*self._asking, return_exceptions=True)

    async def publish(self, work: Work, answer: Answer) -> None:
        """Send a verdict down; one that does not get through is asked for again by the device."""
        latency_s = max(0.0, self._clock() - work.arrived)
        top_k = self._top_k.get(work.task, 0)
        verdict = verdict_of(work.sample_id, work.task, answer, top_k=top_k, latency_ms=latency_s * 1e3)
        try:
            await self._downlink.tell(work.device, Channel.VERDICT, verdict)
        except ConnectionLost as err:
            log.debug("verdict for %s not sent, the device asks again: %s", work.device, err)
        else:
            self._counts.verdicts += 1
            self._latencies.note_answered(work.task, latency_s)

    def receipt_slow(self, arrived_before: float) -> None:
        """Receipt stored samples that arrived by then and have no verdict yet."""
        for work in self._under_way.values():
            if work.stored and not work.receipted and work.arrived <= arrived_before:
                self._receipts.accept(work.device, work.sample_id)
                work.receipted = True

    async def _ask(self, work: Work) -> None:
        answer = None
        try:
            answer = await self._said_or_given_up(work)
        # A defect must not leave its sample under way for ever, nor the service ignorant of it: the log gets it whole.
        except Exception:
            log.exception("sample %s of %s is not answered: a defect", work.sample_id, work.device)
        # One that is cancelled does not end here: whoever has it unacknowledged keeps it.
        if answer is None:
            self._end(work)
        else:
            self._answers.put_nowait((work, answer))  # under way is bounded, so this queue is

    async def _said_or_given_up(self, work: Work) -> Answer | None:
        try:
            return await self._said(work)
        except Expired as err:
            self._counts.expired += 1
            self._receipts.refuse(work.device, Refusal(message_id=work.sample_id, reason=str(err)))
        except TeacherError as err:
            await self._failed(work, err)
        return None

    async def _said(self, work: Work) -> Answer:
        teacher = self._teachers[work.task]
        rest = Priority.AUDIT if work.audit else Priority.TRAINING
        if work.wanted_until is None:
            return await teacher.answer(work.tensor, priority=rest)
        left_s = work.wanted_until - self._clock()
        try:
            return await teacher.answer(work.tensor, priority=Priority.WANTED, deadline_s=left_s)
        except Expired:
            if not work.stored:
                raise
        # Too late for whoever waited; the device takes it as a correction, and students learn from it.
        return await teacher.answer(work.tensor, priority=rest)

    async def _failed(self, work: Work, err: TeacherError) -> None:
        self._counts.teacher_failures += 1
        self._faults.note("TeacherError", f"task {work.task}: sample {work.sample_id} of {work.device}: {err}")
        if not work.stored:
            self._receipts.refuse(work.device, Refusal(message_id=work.sample_id, reason=str(err)[:2_000]))
            return
        self._receipts.accept(work.device, work.sample_id)
        try:
            await self._samples.fail(work.sample_id, str(err))
        except (StorageFull, StoreError) as store_err:
            self._outage.begin(f"a teacher's failure cannot be noted: {store_err}")

    async def _answer_back(self, done: list[tuple[Work, Answer]]) -> None:
        stored = [(work.sample_id, answer) for work, answer in done if work.stored]
        try:
            await self._samples.answer(stored)
        except (StorageFull, StoreError) as err:
            # The device still gets its answer; the stored sample is asked again at the next start.
            self._outage.begin(f"verdicts cannot be stored: {err}")
        else:
            if stored:
                self._outage.end()
        for work, answer in done:
            try:
                await self.publish(work, answer)
            finally:
                self._end(work)

    def _end(self, work: Work) -> None:
        del self._under_way[work.sample_id]
        work.release()
        self._freed.set()


async def gather(queue: asyncio.Queue[T], limit: int) -> list[T]:
    """What waits in a queue, at least one and at most `limit`."""
    items = [await queue.get()]
    while len(items) < limit and not queue.empty():
        items.append(queue.get_nowait())
    return items
