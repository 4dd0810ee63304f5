"""The sample store: rows in the database, tensors in the blob store, idempotent by sample id."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, bindparam, func, select, update

from cloud_service.errors import NotFound
from cloud_service.storage.blobs import BlobStore
from cloud_service.storage.database import Database, utc_now
from cloud_service.storage.models import Sample
from shared import codec
from shared.codec import Array
from shared.messages import SampleHeader

# Payloads read at once.
_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class NewSample:
    """A sample as it came in; `tensor` may be a view of its frame."""

    device: str
    header: SampleHeader
    tensor: Array


@dataclass(frozen=True, slots=True)
class Answer:
    """What the teacher said about one sample.

    Attributes:
        probabilities: float32 [C].
        teacher: the teacher's version.
    """

    probabilities: NDArray[np.float32]
    teacher: str

    @property
    def label(self) -> int:
        return int(self.probabilities.argmax())


@dataclass(frozen=True, slots=True)
class Known:
    """What is stored of a sample: its answer, the teacher's failure, or neither yet."""

    device: str
    answer: Answer | None
    failure: str | None


@dataclass(frozen=True, slots=True)
class SampleFilter:
    """Which samples are meant; None: any."""

    task: str | None = None
    device: str | None = None
    label: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """How many samples share these; `label` is the teacher's, None where it has not answered."""

    task: str
    device: str
    reason: str
    label: int | None
    count: int


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """A task's answered samples, oldest first.

    Attributes:
        x: [N, *shape], the raw tensors.
        probabilities: float32 [N, C], the teacher's.
        weight: float32 [N], the inverse of the chance that such a sample was sent.
        number: int64 [N], the cloud's own order.
    """

    x: Array
    probabilities: NDArray[np.float32]
    weight: NDArray[np.float32]
    number: NDArray[np.int64]


# One statement for a whole batch; the first answer of a sample stands.
_FIRST_ANSWER = update(Sample).where(Sample.id == bindparam("sample"), Sample.label.is_(None))


class SampleStore:
    """Keeps samples and verdicts. A sample is stored when `add` has returned, not before."""

    def __init__(self, database: Database, blobs: BlobStore, *, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._blobs = blobs
        self._now = now

    async def add(self, samples: Sequence[NewSample]) -> None:
        """Store new samples durably, payloads first; one that is there already changes nothing.

        Raises:
            StorageFull: there is no room; none of them has a row.
            StoreError: the database or the blob store failed; none of them has a row.
        """
        if not samples:
            return
        blobs = await asyncio.to_thread(lambda: [codec.encode(sample.tensor) for sample in samples])
        names = await self._blobs.put(blobs)
        stored_at = self._now()
        rows = [_row(sample, blob, stored_at) for sample, blob in zip(samples, names, strict=True)]
        async with self._database.writing() as session:
            await self._database.insert_new(session, Sample, rows)

    async def known(self, ids: Sequence[UUID]) -> dict[UUID, Known]:
        """Those of `ids` that are stored, and what was answered."""
        if not ids:
            return {}
        async with self._database.reading() as session:
            rows = await session.scalars(select(Sample).where(Sample.id.in_(ids)))
            return {row.id: Known(row.device, answer_of(row), row.failure) for row in rows}

    async def answer(self, answers: Sequence[tuple[UUID, Answer]]) -> None:
        """Store verdicts; the first one of a sample stands.

        Raises:
            StorageFull: there is no room; none of them is stored.
            StoreError: the database failed; none of them is stored.
        """
        if not answers:
            return
        at = self._now()
        rows = [
            {
                "sample": sample_id,
                "label": answer.label,
                "probabilities": answer.probabilities.astype("<f4").tobytes(),
                "teacher": answer.teacher,
                "answered_at": at,
                "failure": None,
            }
            for sample_id, answer in answers
        ]
        async with self._database.writing() as session:
            await (await session.connection()).execute(_FIRST_ANSWER, rows)

    async def fail(self, sample_id: UUID, failure: str) -> None:
        """Note that the teacher cannot answer a sample, so that nobody tries for ever."""
        async with self._database.writing() as session:
            await session.execute(update(Sample).where(Sample.id == sample_id).values(failure=failure[:2_000]))

    async def unanswered(self, *, after: int, limit: int) -> list[Sample]:
        """Stored samples without a verdict or failure, oldest first, from the one after number `after`."""
        where = (Sample.number > after, Sample.label.is_(None), Sample.failure.is_(None))
        async with self._database.reading() as session:
            return list(await session.scalars(select(Sample).where(*where).order_by(Sample.number).limit(limit)))

    async def page(self, which: SampleFilter, *, before: int | None, limit: int) -> list[Sample]:
        """Newest first; the next page starts before the last row's `number`."""
        where = _where(which)
        if before is not None:
            where.append(Sample.number < before)
        async with self._database.reading() as session:
            return list(await session.scalars(select(Sample).where(*where).order_by(Sample.number.desc()).limit(limit)))

    async def one(self, sample_id: UUID) -> Sample:
        """A sample's row.

        Raises:
            NotFound: there is none.
        """
        async with self._database.reading() as session:
            row = await session.scalar(select(Sample).where(Sample.id == sample_id))
        if row is None:
            raise NotFound(f"no sample {sample_id}: list them with GET /api/v1/samples")
        return row

    async def tensor(self, row: Sample) -> Array:
        """A sample's raw tensor.

        Raises:
            NotFound: its payload is gone.
            StoreError: the blob store failed.
        """
        tensor: Array = codec.decode(await self._blobs.get(row.blob))
        return tensor

    async def groups(self, which: SampleFilter) -> list[Group]:
        """Counts by task, device, reason and teacher's label."""
        keys = (Sample.task, Sample.device, Sample.reason, Sample.label)
        query = select(*keys, func.count()).where(*_where(which)).group_by(*keys).order_by(*keys)
        async with self._database.reading() as session:
            return [Group(*row) for row in await session.execute(query)]

    async def count_answered(self, task: str, *, after: int = 0) -> tuple[int, int]:
        """How many samples of the task with a verdict came after number `after`, and the last one's number."""
        where = (Sample.task == task, Sample.number > after, Sample.label.is_not(None))
        async with self._database.reading() as session:
            row = (await session.execute(select(func.count(), func.max(Sample.number)).where(*where))).one()
        return int(row[0]), int(row[1] or after)

    async def training_set(self, task: str, *, limit: int) -> TrainingSet | None:
        """The newest `limit` answered samples of a task that are alike; None when there is none.

        A task whose input or labels were changed has older samples of another shape; they are left out.

        Raises:
            NotFound: a payload is missing.
            StoreError: the database or the blob store failed.
        """
        where = (Sample.task == task, Sample.label.is_not(None))
        async with self._database.reading() as session:
            query = select(Sample).where(*where).order_by(Sample.number.desc()).limit(limit)
            rows = sorted(await session.scalars(query), key=lambda row: row.number)
        if not rows:
            return None
        tensors: list[Array] = []
        for at in range(0, len(rows), _AT_ONCE):
            tensors += await asyncio.gather(*(self.tensor(row) for row in rows[at : at + _AT_ONCE]))
        kinds = [_kind(row, tensor) for row, tensor in zip(rows, tensors, strict=True)]
        alike = [index for index, kind in enumerate(kinds) if kind == kinds[-1]]
        return await asyncio.to_thread(_training_set, [rows[i] for i in alike], [tensors[i] for i in alike])


def answer_of(row: Sample) -> Answer | None:
    """The verdict in a row, if there is one."""
    if row.probabilities is None or row.teacher is None:
        return None
    return Answer(np.frombuffer(row.probabilities, dtype="<f4"), row.teacher)


def _kind(row: Sample, tensor: Array) -> tuple[object, ...]:
    return len(row.probabilities or b""), tensor.shape, tensor.dtype


def _training_set(rows: Sequence[Sample], tensors: Sequence[Array]) -> TrainingSet:
    return TrainingSet(
        x=np.stack(tensors),
        probabilities=np.stack([np.frombuffer(row.probabilities or b"", dtype="<f4") for row in rows]),
        weight=np.array([1.0 / row.inclusion_probability for row in rows], dtype=np.float32),
        number=np.array([row.number for row in rows], dtype=np.int64),
    )


def _row(sample: NewSample, blob: str, stored_at: datetime) -> dict[str, Any]:
    header = sample.header
    return {
        "id": header.sample_id,
        "device": sample.device,
        "task": header.task,
        "seq": header.seq,
        "bundle_version": header.bundle_version,
        "prediction": header.prediction,
        "hardness": header.hardness,
        "reason": header.reason.value,
        "inclusion_probability": header.inclusion_probability,
        "stored_at": stored_at,
        "blob": blob,
    }


def _where(which: SampleFilter) -> list[ColumnElement[bool]]:
    pairs = ((Sample.task, which.task), (Sample.device, which.device), (Sample.label, which.label))
    where = [column == value for column, value in pairs if value is not None]
    return [*where, Sample.reason == which.reason] if which.reason is not None else where
