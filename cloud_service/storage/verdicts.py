"""What teachers and people say about stored samples: the teacher's first answer stands, a human's newest label wins."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BindParameter, Connection, bindparam, select, update

from cloud_service.storage.blobs import BlobStore
from cloud_service.storage.database import Database, utc_now
from cloud_service.storage.models import Sample
from cloud_service.storage.part import COUNT_DUPLICATES
from cloud_service.storage.payloads import Left, Payloads
from cloud_service.storage.recent import Recent
from cloud_service.storage.values import Answer

# One statement for a whole batch each.
_FIRST_ANSWER = update(Sample).where(Sample.id == bindparam("sample"), Sample.label.is_(None))
_HUMAN_LABEL = update(Sample).where(Sample.id == bindparam("sample"))
_AS_DUPLICATE = (
    update(Sample)
    .where(Sample.id == bindparam("sample"))
    .values(
        duplicate_of=bindparam("first"),
        blob=bindparam("their_blob"),
        pack=bindparam("their_pack"),
        pack_start=bindparam("their_start"),
        payload_bytes=bindparam("their_bytes"),
        own_pack=bindparam("mine"),
    )
)
_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
# What may become a duplicate: answered now for the first time, said by nobody to be anything, stood for by no payload.
_PLACE = (Sample.blob, Sample.pack, Sample.pack_start, Sample.payload_bytes)
_UNLIKE_YET = (
    select(Sample.id, Sample.device, Sample.task, *_PLACE)
    .where(
        Sample.id.in_(_IDS),
        Sample.label.is_(None),
        Sample.human_label.is_(None),
        Sample.duplicate_of.is_(None),
        Sample.duplicates == 0,
    )
    .order_by(Sample.number)
)
_FIRSTS = select(Sample.id, *_PLACE).where(Sample.id.in_(_IDS), Sample.duplicate_of.is_(None))
MAX_NAME = 64
MAX_FAILURE = 2_000


class Verdicts(Payloads):
    """Each raises `StoreError` when the database failed, `StorageFull` when it has no room; nothing is stored then."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        *,
        now: Callable[[], datetime] = utc_now,
        near_duplicates: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(database, blobs, now=now, near_duplicates=near_duplicates)
        self._recent: defaultdict[str, Recent] = defaultdict(Recent)

    async def answer(self, answers: Sequence[tuple[UUID, Answer]]) -> None:
        """Store verdicts; the first one of a sample stands.

        Where the task has near-duplicates and the teacher gives embeddings, a sample that is like one of its device's
        last ones, with the same label, becomes that one's duplicate, and its own payload is let go.
        """
        if not answers:
            return
        at = self._now()
        rows = [{"sample": sample_id, "answered_at": at, **_columns(answer)} for sample_id, answer in answers]
        embedded = {sample_id: answer for sample_id, answer in answers if answer.embedding is not None}

        def write(connection: Connection) -> None:
            if embedded and any(within > 0 for within in self._near_duplicates.values()):
                self._fold_duplicates(connection, embedded)
            connection.execute(_FIRST_ANSWER, rows)

        await self._database.write(write)

    async def fail(self, sample_id: UUID, failure: str) -> None:
        """Note that the teacher cannot answer a sample, so that nobody tries for ever."""
        noted = update(Sample).where(Sample.id == sample_id, Sample.label.is_(None))
        async with self._database.in_turn() as connection:
            await connection.execute(noted.values(failure=failure[:MAX_FAILURE]))

    async def label(self, labels: Sequence[tuple[UUID, int]], *, by: str) -> int:
        """Store what a human says; the newest word stands, and wins over the teacher's wherever a label counts.

        Args:
            by: who says so.

        Returns:
            How many of the samples there are.
        """
        newest = dict(labels)
        if not newest:
            return 0
        at = self._now()
        async with self._database.in_turn() as connection:
            found = list(await connection.scalars(select(Sample.id).where(Sample.id.in_(newest))))
            rows = [
                {"sample": one, "human_label": newest[one], "labelled_by": by[:MAX_NAME], "labelled_at": at}
                for one in found
            ]
            if rows:
                await connection.execute(_HUMAN_LABEL, rows)
        return len(found)

    def _fold_duplicates(self, connection: Connection, answers: Mapping[UUID, Answer]) -> None:
        rows = (connection.execute(_UNLIKE_YET, {"ids": list(answers)})).all()
        likenesses = [(row, first) for row in rows if (first := self._first_like(row, answers[row.id]))]
        if not likenesses:
            return
        wanted = list({first for _, first in likenesses})
        firsts = {row.id: row for row in connection.execute(_FIRSTS, {"ids": wanted})}
        folded = [(row, firsts[first]) for row, first in likenesses if first in firsts]
        if not folded:
            return
        connection.execute(_AS_DUPLICATE, [_pointed(row, first) for row, first in folded])
        counts = Counter(first.id for _, first in folded)
        connection.execute(COUNT_DUPLICATES, [{"sample": one, "more": more} for one, more in counts.items()])
        left = [Left(row.blob, row.pack or row.blob, row.payload_bytes) for row, _ in folded]
        self._leave(connection, left, for_good=False)

    def _first_like(self, row: Any, answer: Answer) -> UUID | None:
        within = self._near_duplicates.get(row.task, 0.0)
        if within == 0 or answer.embedding is None:
            return None
        recent = self._recent[row.task]
        first = recent.like(row.device, answer.label, answer.embedding, within=within)
        if first is None:
            # Even if this transaction fails: it is asked for its row before anything becomes its duplicate.
            recent.add(row.device, row.id, answer.label, answer.embedding)
        return first if first != row.id else None


def _pointed(row: Any, first: Any) -> dict[str, Any]:
    return {
        "sample": row.id,
        "first": first.id,
        "their_blob": first.blob,
        "their_pack": first.pack or first.blob,
        "their_start": first.pack_start,
        "their_bytes": first.payload_bytes,
        "mine": row.pack or row.blob,
    }


def _columns(answer: Answer) -> dict[str, Any]:
    embedding = answer.embedding
    return {
        "label": answer.label,
        "probabilities": answer.probabilities.astype("<f4").tobytes(),
        "teacher": answer.teacher,
        "temperature": answer.temperature,
        "embedding": None if embedding is None else embedding.astype("<f2").tobytes(),
        "failure": None,
    }
