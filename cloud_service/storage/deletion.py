"""How samples leave the store: rows, payloads that nobody else needs, and marks for what may not come back."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, bindparam, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from cloud_service.storage.models import Incident, PurgedSample, Sample, Tombstone, WornPack
from cloud_service.storage.payloads import Left, Payloads
from cloud_service.storage.values import Purged, SampleFilter, conditions

# Rows in one transaction: others wait that long for their turn.
_ROWS = 500
_BECOMES_FIRST = (
    update(Sample).where(Sample.id == bindparam("sample")).values(duplicate_of=None, duplicates=bindparam("count"))
)
_FOLLOWS = update(Sample).where(Sample.duplicate_of == bindparam("was")).values(duplicate_of=bindparam("sample"))


class Deletion(Payloads):
    """Each raises `StoreError` when the database or the blob store failed; what was done until then stays done."""

    async def purge(self, which: SampleFilter) -> Purged:
        """Delete samples for good: a redelivery does not bring them back.

        Raises:
            ValueError: the filter names no condition; that would be everything.
        """
        if which == SampleFilter():
            raise ValueError("a purge needs at least one condition")
        gone = await self._delete_all(conditions(which), for_good=True)
        await self.sweep()
        return gone

    async def purge_device(self, device: str) -> Purged:
        """Delete everything of a device for good, its incidents too; refuse from now on what it had sent before.

        See `cloud_service.storage.intake` for what is refused afterwards.
        """
        highest = select(Sample.task, func.max(Sample.seq)).where(Sample.device == device).group_by(Sample.task)
        async with self._database.in_turn() as connection:
            at = self._now()
            marks = [
                {"device": device, "task": task, "seq_until": seq, "at": at}
                for task, seq in await connection.execute(highest)
            ]
            if marks:
                await connection.execute(self._database.insert_or_skip(Tombstone), marks)
        gone = await self._delete_all([Sample.device == device], for_good=True)
        # After the samples, that no more are found in them.
        async with self._database.in_turn() as connection:
            await connection.execute(delete(Incident).where(Incident.device == device))
        await self.sweep()
        return gone

    async def _delete_all(self, where: Sequence[ColumnElement[bool]], *, for_good: bool) -> Purged:
        """Delete rows; their payloads go with the next sweep."""
        samples, blobs = 0, 0
        while True:
            async with self._database.in_turn() as connection:
                ids = list(await connection.scalars(select(Sample.id).where(*where).limit(_ROWS)))
                blobs += await self._delete_rows(connection, ids, for_good=for_good)
            samples += len(ids)
            if not ids:
                break
        return Purged(samples, blobs)

    async def _delete_ids(self, ids: Sequence[UUID]) -> Purged:
        """Delete the rows of these samples and of their duplicates, which go first; they may come back.

        Duplicates that a human labelled stay: the oldest takes the place of what they were like.
        """
        gone = Purged()
        for start in range(0, len(ids), _ROWS):
            some = ids[start : start + _ROWS]
            unlabelled = (Sample.duplicate_of.in_(some), Sample.human_label.is_(None), Sample.id.not_in(some))
            gone += await self._delete_all(unlabelled, for_good=False)
            gone += await self._delete_all([Sample.id.in_(some)], for_good=False)
        return gone

    async def _delete_rows(self, connection: AsyncConnection, ids: Sequence[UUID], *, for_good: bool) -> int:
        """Delete rows and list what they leave behind; returns how many payloads nobody needs."""
        if not ids:
            return 0
        columns = (Sample.id, Sample.device, Sample.blob, Sample.pack, Sample.payload_bytes, Sample.own_pack)
        query = select(*columns).where(Sample.id.in_(ids))
        rows = (await connection.execute(query)).all()
        if for_good:
            marks = [{"id": row.id, "device": row.device, "at": self._now()} for row in rows]
            await connection.execute(self._database.insert_or_skip(PurgedSample), marks)
        await _appoint_heirs(connection, ids)
        await connection.execute(delete(Sample).where(Sample.id.in_(ids)))
        left = [Left(row.blob, row.pack or row.blob, row.payload_bytes) for row in rows]
        if for_good:
            # Duplicates' own payloads: where they lie still, the pack is marked.
            own = {row.own_pack for row in rows if row.own_pack is not None}
            await connection.execute(update(WornPack).where(WornPack.name.in_(own)).values(due=True))
        await connection.run_sync(self._leave, left, for_good=for_good)
        blobs = {row.blob for row in rows}
        # Whoever has a payload that others have too is a first one, or points to one.
        needed = select(Sample.blob).where(Sample.blob.in_(blobs), Sample.duplicate_of.is_(None)).distinct()
        return len(blobs) - len((await connection.scalars(needed)).all())


async def _appoint_heirs(connection: AsyncConnection, ids: Sequence[UUID]) -> None:
    """Where a first sample goes and duplicates of it stay, the oldest of these takes its place and its payload."""
    left = (Sample.duplicate_of.in_(ids), Sample.id.not_in(ids))
    oldest = select(func.min(Sample.number)).where(*left).group_by(Sample.duplicate_of)
    heirs = (await connection.execute(select(Sample.id, Sample.duplicate_of).where(Sample.number.in_(oldest)))).all()
    if not heirs:
        return
    firsts = select(Sample.id, Sample.duplicates).where(Sample.id.in_([heir.duplicate_of for heir in heirs]))
    counts = {row.id: max(row.duplicates - 1, 0) for row in await connection.execute(firsts)}
    await connection.execute(_FOLLOWS, [{"sample": heir.id, "was": heir.duplicate_of} for heir in heirs])
    rows = [{"sample": heir.id, "count": counts[heir.duplicate_of]} for heir in heirs]
    await connection.execute(_BECOMES_FIRST, rows)
