"""What is asked before samples are labelled or deleted: which task each is of, how much there is. Nothing writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select

from cloud_service.storage.models import Sample
from cloud_service.storage.part import StorePart
from cloud_service.storage.values import SampleFilter, conditions

# Ids in one query: databases take 32,000 and more.
_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is.

    Attributes:
        samples: rows.
        payload_bytes: of their payloads, one that several share once; those of an earlier release are not counted.
    """

    samples: int
    payload_bytes: int


class Sizes(StorePart):
    """Each raises `StoreError` when the database failed."""

    async def size(self, which: SampleFilter) -> Size:
        """How many samples match, and how large they are."""
        where = conditions(which)
        payloads = select(Sample.blob, Sample.payload_bytes).where(*where).distinct().subquery()
        count = select(func.count()).select_from(Sample).where(*where)
        total = select(func.coalesce(func.sum(payloads.c.payload_bytes), 0))
        async with self._database.reading() as session:
            samples, payload_bytes = await session.scalar(count), await session.scalar(total)
        return Size(int(samples or 0), int(payload_bytes or 0))

    async def tasks_of(self, ids: Sequence[UUID]) -> dict[UUID, str]:
        """The task of each of these samples that is stored."""
        found: dict[UUID, str] = {}
        async with self._database.reading() as session:
            for start in range(0, len(ids), _AT_ONCE):
                query = select(Sample.id, Sample.task).where(Sample.id.in_(ids[start : start + _AT_ONCE]))
                found |= {row.id: row.task for row in await session.execute(query)}
        return found
