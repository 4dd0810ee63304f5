"""What is asked of the sample store: pages, counts, histograms, audits, scores. Nothing here writes."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from uuid import UUID

from sqlalchemy import ColumnElement, Select, case, func, select
from sqlalchemy.orm import InstrumentedAttribute

from cloud_service.errors import NotFound
from cloud_service.storage.blobs import Range
from cloud_service.storage.models import Sample
from cloud_service.storage.part import StorePart
from cloud_service.storage.values import (
    FINAL_LABEL,
    AuditRow,
    Group,
    Histograms,
    SampleFilter,
    ScoreRow,
    conditions,
)
from shared import codec
from shared.codec import Array
from shared.messages import Reason

HARDNESS_BINS = 20
_Label = InstrumentedAttribute[int | None] | InstrumentedAttribute[int]


class Queries(StorePart):
    """Each raises `StoreError` when the database failed."""

    async def page(self, which: SampleFilter, *, before: int | None, limit: int) -> list[Sample]:
        """Newest first; the next page starts before the last row's `number`."""
        query = select(Sample).where(*conditions(which)).order_by(Sample.number.desc()).limit(limit)
        return await self._rows(query if before is None else query.where(Sample.number < before))

    async def unanswered(self, *, after: int, limit: int) -> list[Sample]:
        """Stored samples without a verdict or failure, oldest first, from the one after number `after`."""
        where = (Sample.number > after, Sample.label.is_(None), Sample.failure.is_(None))
        return await self._rows(select(Sample).where(*where).order_by(Sample.number).limit(limit))

    async def one(self, sample_id: UUID) -> Sample:
        """A sample's row.

        Raises:
            NotFound: there is none.
        """
        rows = await self._rows(select(Sample).where(Sample.id == sample_id))
        if not rows:
            raise NotFound(f"no sample {sample_id}: list them with GET /api/v1/samples")
        return rows[0]

    async def tensor(self, row: Sample) -> Array:
        """A sample's raw tensor; a duplicate's is its first one's.

        Raises:
            NotFound: its payload is gone.
            StoreError: the blob store failed.
        """
        # A replica of an earlier release names no pack: its payload is an object of its own.
        try:
            [payload] = await self._blobs.get(row.pack or row.blob, [Range(row.pack_start, row.payload_bytes)])
        except NotFound:
            # What else was in its pack may have been deleted meanwhile, and this one been put elsewhere.
            moved = await self.one(row.id)
            if moved.pack == row.pack:
                raise
            [payload] = await self._blobs.get(moved.pack or moved.blob, [Range(moved.pack_start, moved.payload_bytes)])
        tensor: Array = codec.decode(payload)
        return tensor

    async def groups(self, which: SampleFilter) -> list[Group]:
        """Counts by task, device, reason and label (the human's, else the teacher's)."""
        keys = (Sample.task, Sample.device, Sample.reason, FINAL_LABEL)
        query = select(*keys, func.count()).where(*conditions(which)).group_by(*keys).order_by(*keys)
        async with self._database.reading() as session:
            return [Group(*row) for row in await session.execute(query)]

    async def count_answered(self, task: str, *, after: int = 0) -> tuple[int, int]:
        """How many samples of the task with a label came after number `after`, and the last one's number."""
        where = (Sample.task == task, Sample.number > after, FINAL_LABEL.is_not(None))
        async with self._database.reading() as session:
            row = (await session.execute(select(func.count(), func.max(Sample.number)).where(*where))).one()
        return int(row[0]), int(row[1] or after)

    async def histograms(self, task: str, *, device: str | None = None, since: datetime | None = None) -> Histograms:
        """A task's samples by label and by hardness."""
        where = conditions(SampleFilter(task=task, device=device, since=since))
        by_class = select(FINAL_LABEL, func.count()).where(*where, FINAL_LABEL.is_not(None)).group_by(FINAL_LABEL)
        # How many are at or above each inner edge: databases round and cast in ways of their own, and compare alike.
        edges = [number / HARDNESS_BINS for number in range(1, HARDNESS_BINS)]
        above = [func.count(case((Sample.hardness >= edge, 1))) for edge in edges]
        async with self._database.reading() as session:
            classes = {int(label or 0): int(count) for label, count in await session.execute(by_class)}
            counts = (await session.execute(select(func.count(), *above).where(*where))).one()
        return Histograms(classes, [int(more) - int(less) for more, less in pairwise([*counts, 0])])

    async def audits(
        self, task: str, *, device: str | None = None, since: datetime, until: datetime | None = None
    ) -> list[AuditRow]:
        """The task's audits that were stored from `since` on and before `until`, oldest first."""
        where = conditions(SampleFilter(task=task, device=device, reason=Reason.AUDIT, since=since, until=until))
        query = select(
            Sample.device,
            _same(Sample.label, Sample.prediction),
            _same(Sample.human_label, Sample.prediction),
            _same(Sample.human_label, Sample.label),
            Sample.inclusion_probability,
            Sample.stored_at,
        )
        async with self._database.reading() as session:
            rows = await session.execute(query.where(*where).order_by(Sample.number))
            return [AuditRow(d, _truth(a), _truth(e), _truth(t), p, at) for d, a, e, t, p, at in rows]

    async def scores(self, task: str, *, after: int, limit: int) -> list[ScoreRow]:
        """The task's scores in order of number, from the one after number `after`.

        What is committed later has a larger number, so that asking on from the last one misses nothing.
        """
        columns = (
            Sample.number,
            Sample.id,
            Sample.device,
            Sample.hardness,
            Sample.reason,
            Sample.inclusion_probability,
        )
        query = select(*columns).where(Sample.task == task, Sample.number > after).order_by(Sample.number).limit(limit)
        async with self._database.reading() as session:
            return [ScoreRow(*row) for row in await session.execute(query)]

    async def _rows(self, query: Select[Sample]) -> list[Sample]:
        async with self._database.reading() as session:
            return list(await session.scalars(query))


def _same(one: _Label, other: _Label) -> ColumnElement[int | None]:
    """1 or 0, or NULL where either is NULL."""
    return case((one == other, 1), (one != other, 0))


def _truth(value: int | None) -> bool | None:
    return None if value is None else bool(value)
