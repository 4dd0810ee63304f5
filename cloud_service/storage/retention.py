"""What the store keeps of a task: limits by age, rows, bytes and class; above them the least informative go."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from math import isqrt
from typing import Protocol
from uuid import UUID

import numpy as np
from sqlalchemy import case, func, select

from cloud_service.errors import StoreError
from cloud_service.notices import Outage
from cloud_service.storage import selection
from cloud_service.storage.deletion import Deletion
from cloud_service.storage.models import Sample
from cloud_service.storage.queries import Queries
from cloud_service.storage.values import FINAL_LABEL, Purged, SampleFilter, conditions
from shared.errors import StorageFull

log = logging.getLogger(__name__)

# Samples that are compared with each other at once, the oldest ones: four for each that has to go, within these limits.
# What the comparison costs grows with its square.
_SMALLEST_WINDOW, _LARGEST_WINDOW = 256, 4_096
# Multiplications in one comparison: about a second. Wide embeddings make the window smaller.
_WORK = 2_000_000_000
# The newest samples that `select` chooses from.
_CANDIDATES = 10_000
_HUMAN_WEIGHT = 1_000.0
_EVERY_S = 600.0


@dataclass(frozen=True, slots=True)
class RetentionRules:
    """Limits for one task; None: no such limit.

    Attributes:
        max_age: older samples go, whatever they are worth.
        max_samples: rows, duplicates included.
        max_bytes: of payloads.
        max_per_class: rows of one label, the human's or else the teacher's.
    """

    max_age: timedelta | None = None
    max_samples: int | None = None
    max_bytes: int | None = None
    max_per_class: int | None = None


@dataclass(frozen=True, slots=True)
class _Over:
    """What is too much, of a label or (None) of all together."""

    label: int | None
    rows: int
    size: int


@dataclass(frozen=True, slots=True)
class _Candidate:
    """What is compared of a row, in the order of `_COLUMNS`."""

    id: UUID
    final: int | None
    human_label: int | None
    prediction: int
    hardness: float
    probabilities: bytes | None
    embedding: bytes | None
    payload_bytes: int
    duplicate_of: UUID | None


_COLUMNS = (
    Sample.id,
    FINAL_LABEL,
    Sample.human_label,
    Sample.prediction,
    Sample.hardness,
    Sample.probabilities,
    Sample.embedding,
    Sample.payload_bytes,
    Sample.duplicate_of,
)


class Keeping(Deletion, Queries):
    """Retention, and the choice of what is informative."""

    async def retain(self, task: str, rules: RetentionRules) -> Purged:
        """Hold a task's samples to the rules.

        Too old ones go first. Above another limit duplicates go before samples of their own; of these, the oldest
        are compared, some hundreds or thousands at once, and the least informative go (`selection`). What a human
        labelled stays while anything else can go.
        """
        gone = Purged()
        if rules.max_age is not None:
            old = conditions(SampleFilter(task=task, until=self._now() - rules.max_age))
            gone += await self._delete_all(old, for_good=False)
        # Counting takes a walk through all of the task. It is counted again only when by that count all is well: what
        # was deleted may have left its payload to a duplicate.
        while surplus := await self._surplus(task, rules):
            before = gone
            for over in surplus:
                gone += await self._reduce(task, over)
            if gone == before:
                break
        if gone.samples:
            await self.sweep()
        return gone

    async def select(self, task: str, *, limit: int, per_class: int | None = None) -> list[Sample]:
        """The most informative of the task's newest answered samples, best first; no duplicates, nothing labelled yet.

        Args:
            per_class: at most this many of one label.
        """
        where = (Sample.task == task, Sample.label.is_not(None), Sample.human_label.is_(None))
        query = select(*_COLUMNS).where(*where, Sample.duplicate_of.is_(None)).order_by(Sample.number.desc())
        async with self._database.reading() as session:
            rows = [_Candidate(*row) for row in await session.execute(query.limit(_CANDIDATES))]
        chosen = await asyncio.to_thread(_best, rows, limit, per_class)
        found = {row.id: row for row in await self._rows(select(Sample).where(Sample.id.in_(chosen)))}
        return [found[one] for one in chosen if one in found]

    async def _surplus(self, task: str, rules: RetentionRules) -> list[_Over]:
        """By how much the rules are broken: by the whole task, or else by some of its labels; empty: they are kept."""
        own = case((Sample.duplicate_of.is_(None), Sample.payload_bytes), else_=0)
        size_of = func.coalesce(func.sum(own), 0)
        query = select(FINAL_LABEL, func.count(), size_of).where(Sample.task == task).group_by(FINAL_LABEL)
        async with self._database.reading() as session:
            counts = [(label, int(n), int(size)) for label, n, size in await session.execute(query)]
        rows, size = sum(n for _, n, _ in counts), sum(size for *_, size in counts)
        over_rows = rows - rules.max_samples if rules.max_samples is not None else 0
        over_bytes = size - rules.max_bytes if rules.max_bytes is not None else 0
        if over_rows > 0 or over_bytes > 0:
            return [_Over(None, over_rows, over_bytes)]
        most = rules.max_per_class
        if most is None:
            return []
        return [_Over(label, n - most, 0) for label, n, _ in counts if label is not None and n > most]

    async def _reduce(self, task: str, over: _Over) -> Purged:
        gone, rows, size = Purged(), over.rows, over.size
        while rows > 0 or size > 0:
            doomed, freed = await self._least(task, rows, size, label=over.label)
            deleted = await self._delete_ids(doomed)
            if not deleted.samples:
                break
            gone += deleted
            rows, size = rows - deleted.samples, size - freed
        return gone

    async def _least(self, task: str, rows: int, size: int, *, label: int | None) -> tuple[list[UUID], int]:
        """The least informative of the oldest, to free `rows` rows and `size` bytes, as far as a window has them.

        Returns:
            Their ids, and how many bytes of payloads they have.
        """
        where = [*conditions(SampleFilter(task=task, label=label))]
        if rows <= 0:
            where.append(Sample.duplicate_of.is_(None))  # the others have no bytes of their own
        limit = _LARGEST_WINDOW if size > 0 else min(max(4 * rows, _SMALLEST_WINDOW), _LARGEST_WINDOW)
        labelled_last = (Sample.human_label.is_not(None), Sample.number)
        query = select(*_COLUMNS).where(*where).order_by(*labelled_last).limit(limit)
        async with self._database.reading() as session:
            window = [_Candidate(*row) for row in await session.execute(query)]
        doomed = await asyncio.to_thread(_worst, window, rows, size)
        own = {row.id: row.payload_bytes for row in window if row.duplicate_of is None}
        return doomed, sum(own.get(one, 0) for one in doomed)


class Retains(Protocol):
    """The part of the sample store that `Retention` drives."""

    async def retain(self, task: str, rules: RetentionRules) -> Purged: ...

    async def sweep(self) -> int: ...


class Retention:
    """Holds every task to its rules, now and then."""

    def __init__(
        self,
        store: Retains,
        rules: Mapping[str, RetentionRules],
        *,
        every_s: float = _EVERY_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._rules = dict(rules)
        self._every_s = every_s
        self._sleep = sleep
        self._outage = Outage(log, "retention works again")

    async def run(self) -> None:
        """Work until cancelled. Replicas may all run it: what one has deleted the next does not find."""
        while True:
            await self._once()
            await self._sleep(self._every_s)

    async def _once(self) -> None:
        try:
            for task, rules in self._rules.items():
                gone = await self._store.retain(task, rules)
                if gone.samples:
                    log.info("task %s: %d samples and %d payloads were let go", task, gone.samples, gone.blobs)
            await self._store.sweep()
        except (StorageFull, StoreError) as err:
            self._outage.begin(f"retention has to wait: {err}")
        else:
            self._outage.end()


def _worst(window: Sequence[_Candidate], rows: int, size: int) -> list[UUID]:
    """Duplicates first, but those that a human labelled; then samples of their own, the least worth first.

    Of these, too, what a human labelled goes last. Half at most go at once, so that there is a choice.
    """
    doomed: list[UUID] = []
    for row in window:
        if row.duplicate_of is not None and row.human_label is None and rows > len(doomed):
            doomed.append(row.id)
    rows -= len(doomed)
    # A duplicate that a human labelled is worth as much as a first one that a human labelled.
    firsts = [row for row in window if row.duplicate_of is None or row.human_label is not None]
    width = max((len(row.embedding or b"") // 2 for row in firsts), default=0)
    firsts = firsts[: max(isqrt(_WORK // max(width, 1)), _SMALLEST_WINDOW)]
    by_id = {row.id: row for row in firsts}
    worst_first = _best(firsts, len(firsts), None)[::-1]
    worst_first.sort(key=lambda one: by_id[one].human_label is not None)
    for one in islice(worst_first, (len(firsts) + 1) // 2):
        frees = by_id[one].payload_bytes if by_id[one].duplicate_of is None else 0
        if rows <= 0 and (size <= 0 or not frees):
            continue
        doomed.append(one)
        rows -= 1
        size -= frees
    return doomed


def _best(rows: Sequence[_Candidate], limit: int, per_class: int | None) -> list[UUID]:
    if not rows:
        return []
    chosen = selection.choose(
        _embeddings(rows),
        _weights(rows),
        np.array([-1 if row.final is None else row.final for row in rows], np.int64),
        limit=limit,
        per_class=per_class,
    )
    return [rows[index].id for index in chosen]


def _weights(rows: Sequence[_Candidate]) -> selection.Floats:
    """Uncertainty where a teacher answered, the edge's own hardness where none has; labelled by a human: above all."""
    weights = np.array([min(max(row.hardness, 0.0), 1.0) for row in rows], np.float32)
    for width in {len(row.probabilities) for row in rows if row.probabilities}:
        at = [index for index, row in enumerate(rows) if row.probabilities and len(row.probabilities) == width]
        probabilities = np.stack([np.frombuffer(rows[index].probabilities or b"", "<f4") for index in at])
        predictions = np.array([rows[index].prediction for index in at], np.int64)
        if probabilities.shape[1] > 1:
            weights[at] = selection.uncertainty(probabilities, predictions)
    weights[[row.human_label is not None for row in rows]] = _HUMAN_WEIGHT
    return weights


def _embeddings(rows: Sequence[_Candidate]) -> selection.Floats:
    """[N, E] of the commonest width; a row without one is as far from all others as one can be at right angles."""
    widths = Counter(len(row.embedding) // 2 for row in rows if row.embedding)
    width = widths.most_common(1)[0][0] if widths else 0
    found = np.zeros((len(rows), width), np.float32)
    for index, row in enumerate(rows):
        if row.embedding and len(row.embedding) == 2 * width:
            found[index] = np.frombuffer(row.embedding, "<f2")
    return found
