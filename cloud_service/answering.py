"""A sample's way through the cloud: frame → admitted → stored (batch commit) → teacher → verdict stored → published.

What breaks on the way is not repaired here: the device keeps a sample until a verdict or a receipt names it and sends
it again, and every step is idempotent by sample id.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from cloud_service.admission import Terms, admit
from cloud_service.downlink import Downlink, Receipts
from cloud_service.errors import NotFound, StoreError, TeacherError
from cloud_service.notices import Outage, Recurring
from cloud_service.settings import IngestSettings
from cloud_service.storage.samples import Answer, Known, NewSample, SampleStore
from cloud_service.teacher.worker import Teacher
from shared.codec import Array
from shared.errors import ConnectionLost, FrameError, StorageFull
from shared.messages import Refusal, Verdict
from shared.topics import Channel

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Frame:
    """A sample frame as it came in; `arrived` is the ingest's clock."""

    device: str
    payload: bytes
    arrived: float


@dataclass(slots=True)
class Counts:
    """What this process has seen since it started.

    Attributes:
        unstored: answered but not kept (`training_use = false`).
    """

    samples: int = 0
    stored: int = 0
    redelivered: int = 0
    unstored: int = 0
    refused: int = 0
    verdicts: int = 0
    teacher_failures: int = 0


@dataclass(slots=True)
class _UnderWay:
    """A sample between its arrival and its verdict."""

    sample_id: UUID
    device: str
    task: str
    tensor: Array
    stored: bool
    arrived: float
    receipted: bool = False


class Answering:
    """Stores and answers samples.

    Args:
        terms: what each task takes; each has a teacher.
        receipts: takes what devices may let go of; whoever owns it flushes it.
        faults: counts and logs what devices got wrong.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        settings: IngestSettings,
        *,
        terms: Mapping[str, Terms],
        teachers: Mapping[str, Teacher],
        samples: SampleStore,
        downlink: Downlink,
        receipts: Receipts,
        faults: Recurring,
        clock: Callable[[], float],
    ) -> None:
        self.counts = Counts()
        self._settings = settings
        self._terms = terms
        self._teachers = teachers
        self._samples = samples
        self._downlink = downlink
        self._receipts = receipts
        self._faults = faults
        self._clock = clock
        self._frames: asyncio.Queue[Frame] = asyncio.Queue(settings.max_queued)
        self._answers: asyncio.Queue[tuple[_UnderWay, Answer]] = asyncio.Queue(settings.max_under_way)
        self._under_way: dict[UUID, _UnderWay] = {}
        self._places = asyncio.Semaphore(settings.max_under_way)
        self._storing = False
        self._outage = Outage(log, "samples are stored again")

    @property
    def idle(self) -> bool:
        return not (self._under_way or self._storing or not self._frames.empty())

    async def take(self, frame: Frame) -> None:
        """Queue a frame; waits while the queue is full: the connection's own queue fills then, and discards."""
        await self._frames.put(frame)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._store_samples(group), name="ingest-store")
            group.create_task(self._answer_back(), name="ingest-answer")
            group.create_task(self._resume(group), name="ingest-resume")

    def receipt_slow(self) -> None:
        """Receipt stored samples whose verdict takes longer than the settings allow."""
        slow = self._clock() - self._settings.receipt_after_s
        for work in self._under_way.values():
            if work.stored and not work.receipted and work.arrived <= slow:
                self._receipts.accept(work.device, work.sample_id)
                work.receipted = True

    async def _store_samples(self, group: asyncio.TaskGroup) -> None:
        while True:
            frames = await gather(self._frames, self._settings.batch)
            self._storing = True
            await self._store(frames, group)
            self._storing = False

    async def _store(self, frames: Sequence[Frame], group: asyncio.TaskGroup) -> None:
        arrived: dict[UUID, tuple[NewSample, float]] = {}
        for frame in frames:
            sample = self._admitted(frame)
            if sample is not None and sample.header.sample_id not in self._under_way:
                arrived[sample.header.sample_id] = (sample, frame.arrived)
        if not arrived:
            return
        known: Mapping[UUID, Known] = {}
        fresh: list[NewSample] = []
        try:
            known = await self._samples.known(list(arrived))
            fresh = [s for s, _ in arrived.values() if s.header.sample_id not in known and s.header.training_use]
            await self._samples.add(fresh)
        except (StorageFull, StoreError) as err:
            self._outage.begin(f"samples cannot be stored, the devices keep them: {err}")
            # What needs no room is answered all the same.
            arrived = {key: one for key, one in arrived.items() if key in known or not one[0].header.training_use}
        else:
            self.counts.stored += len(fresh)
            if fresh:
                self._outage.end()
        for sample, at in arrived.values():
            await self._begin(sample, at, known.get(sample.header.sample_id), group)

    def _admitted(self, frame: Frame) -> NewSample | None:
        self.counts.samples += 1
        try:
            result = admit(frame.device, frame.payload, terms=self._terms, max_bytes=self._settings.max_frame_bytes)
        except FrameError as err:
            self._faults.note(type(err).__name__, f"device {frame.device}: a sample frame cannot be read: {err}")
            return None
        if isinstance(result, Refusal):
            self.counts.refused += 1
            self._faults.note("Refusal", f"device {frame.device}: sample {result.message_id} refused: {result.reason}")
            self._receipts.refuse(frame.device, result)
            return None
        return result

    async def _begin(self, sample: NewSample, arrived: float, known: Known | None, group: asyncio.TaskGroup) -> None:
        header = sample.header
        self.counts.redelivered += known is not None
        self.counts.unstored += not header.training_use
        work = _UnderWay(
            header.sample_id,
            sample.device,
            header.task,
            sample.tensor,
            stored=header.training_use or known is not None,
            arrived=arrived,
        )
        if known is not None and known.failure is not None:
            self._receipts.accept(sample.device, header.sample_id)
        elif known is not None and known.answer is not None:
            await self._publish(work, known.answer)
        else:
            await self._start(work, group)

    async def _start(self, work: _UnderWay, group: asyncio.TaskGroup) -> None:
        await self._places.acquire()
        if work.sample_id in self._under_way:
            self._places.release()
            return
        self._under_way[work.sample_id] = work
        group.create_task(self._ask_teacher(work), name=f"answer-{work.sample_id}")

    async def _ask_teacher(self, work: _UnderWay) -> None:
        try:
            answer = await self._teachers[work.task].answer(work.tensor)
        except TeacherError as err:
            await self._teacher_failed(work, err)
            self._end(work)
            return
        await self._answers.put((work, answer))

    async def _teacher_failed(self, work: _UnderWay, err: TeacherError) -> None:
        self.counts.teacher_failures += 1
        self._faults.note("TeacherError", f"task {work.task}: sample {work.sample_id} of {work.device}: {err}")
        if not work.stored:
            self._receipts.refuse(work.device, Refusal(message_id=work.sample_id, reason=str(err)[:2_000]))
            return
        self._receipts.accept(work.device, work.sample_id)
        try:
            await self._samples.fail(work.sample_id, str(err))
        except (StorageFull, StoreError) as store_err:
            self._outage.begin(f"a teacher's failure cannot be noted: {store_err}")

    async def _answer_back(self) -> None:
        while True:
            done = await gather(self._answers, self._settings.batch)
            try:
                await self._samples.answer([(work.sample_id, answer) for work, answer in done if work.stored])
            except (StorageFull, StoreError) as err:
                # The device still gets its answer; the stored sample is asked again at the next start.
                self._outage.begin(f"verdicts cannot be stored: {err}")
            await asyncio.gather(*(self._publish(work, answer) for work, answer in done))
            for work, _ in done:
                self._end(work)

    async def _publish(self, work: _UnderWay, answer: Answer) -> None:
        verdict = Verdict(
            sample_id=work.sample_id,
            task=work.task,
            prediction=answer.label,
            probabilities=tuple(answer.probabilities.tolist()),
            teacher=answer.teacher,
            latency_ms=max(0.0, (self._clock() - work.arrived) * 1e3),
        )
        try:
            await self._downlink.send(work.device, Channel.VERDICT, verdict)
        except ConnectionLost as err:
            log.debug("verdict for %s not sent, the device asks again: %s", work.device, err)
        else:
            self.counts.verdicts += 1

    def _end(self, work: _UnderWay) -> None:
        del self._under_way[work.sample_id]
        self._places.release()

    async def _resume(self, group: asyncio.TaskGroup) -> None:
        """Answer what was stored and not answered when the service last ended."""
        after, total = 0, 0
        while rows := await self._samples.unanswered(after=after, limit=self._settings.batch):
            after = rows[-1].number
            for row in rows:
                if row.task not in self._teachers:
                    continue
                try:
                    tensor = await self._samples.tensor(row)
                except (NotFound, StoreError) as err:
                    log.error("sample %s cannot be answered: %s", row.id, err)
                    continue
                total += 1
                work = _UnderWay(row.id, row.device, row.task, tensor, stored=True, arrived=self._clock())
                await self._start(work, group)
        if total:
            log.info("%d stored samples had no verdict yet and are answered now", total)


async def gather(queue: asyncio.Queue[T], limit: int) -> list[T]:
    """What waits in a queue, at least one and at most `limit`."""
    items = [await queue.get()]
    while len(items) < limit and not queue.empty():
        items.append(queue.get_nowait())
    return items
