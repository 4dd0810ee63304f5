"""How payloads leave the blob store: never while a row needs them, or somebody is about to add one that does.

Rows point into packs (`packs`), and who adds samples puts their pack before their rows. So:

1. Who takes rows away notes in `worn_packs` what their packs have lost, in the same transaction, in turn. A pack is due
   when nothing in it is needed, when half of it is not, or when something in it was deleted on request.
2. `sweep` puts what is still needed of a pack that is due into a new one. In one turn it points the rows there; what
   was purged while it copied is marked again in the new pack. In the next turn it deletes the old pack if now no row
   needs it, and marks it as deleted. The mark stays for a day.
3. Who adds rows, or points them elsewhere, looks in the same turn whether their pack is marked. If so they put it once
   more before the rows are committed, and take the mark away: a mark may be older than a deletion that it tells of.

No clock decides anything but how long marks are kept. A crash between two steps leaves marks that are swept later. A
crash between a pack and its rows leaves a pack that nothing points to: the device sends the samples again, and they are
stored in another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import bindparam, delete, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from cloud_service.errors import NotFound
from cloud_service.storage.blobs import Range
from cloud_service.storage.models import Sample, WornPack
from cloud_service.storage.packs import Pack, pack_payloads
from cloud_service.storage.part import StorePart

# Longer than anybody takes between a pack and its rows.
_KEEP_MARKS = timedelta(days=1)
_MOVED = (
    update(Sample)
    .where(Sample.pack == bindparam("old"), Sample.pack_start == bindparam("old_start"))
    .values(pack=bindparam("new"), pack_start=bindparam("new_start"), payload_bytes=bindparam("size"))
)


@dataclass(frozen=True, slots=True)
class Left:
    """What a row pointed to that is there no more: its payload, the pack that it lies in, and its size."""

    blob: str
    pack: str
    size: int


class Payloads(StorePart):
    """The way out of the blob store."""

    async def sweep(self) -> int:
        """Delete packs that are due; returns how many.

        Called after each deletion, and from time to time for what a crash left.

        Raises:
            StoreError: the database or the blob store failed; the rest is swept the next time.
            StorageFull: there is no room for what is still needed of a pack.
        """
        async with self._database.reading() as session:
            due = list(await session.scalars(select(WornPack.name).where(WornPack.due, ~WornPack.deleted)))
        for name in due:
            await self._remove(name)
        old = (WornPack.deleted, WornPack.at < self._now() - _KEEP_MARKS)
        async with self._database.in_turn() as connection:
            await connection.execute(delete(WornPack).where(*old))
        return len(due)

    async def _leave(self, connection: AsyncConnection, left: Sequence[Left], *, for_good: bool) -> int:
        """Note what rows that were taken away, or not added, leave behind; returns how many payloads no row needs."""
        if not left:
            return 0
        sizes = {(row.blob, row.pack): row.size for row in left}
        blobs = {row.blob for row in left}
        rows = await connection.execute(select(Sample.blob, Sample.pack).where(Sample.blob.in_(blobs)).distinct())
        needed = {(row.blob, row.pack) for row in rows}
        dead: dict[str, int] = {row.pack: 0 for row in left}
        for place, size in sizes.items():
            if place not in needed:
                dead[place[1]] += size
        await self._wear(connection, dead, for_good=for_good)
        return len(blobs - {blob for blob, _ in needed})

    async def _wear(self, connection: AsyncConnection, dead: dict[str, int], *, for_good: bool) -> None:
        packs = list(dead)
        live_rows = (
            select(Sample.pack, func.sum(Sample.payload_bytes))
            .where(Sample.pack.in_(packs), Sample.duplicate_of.is_(None))
            .group_by(Sample.pack)
        )
        live = {row[0]: int(row[1]) for row in await connection.execute(live_rows)}
        worn = select(WornPack.name, WornPack.dead_bytes, WornPack.due, WornPack.deleted).where(
            WornPack.name.in_(packs)
        )
        marks = {row.name: row for row in await connection.execute(worn)}
        rows: list[dict[str, Any]] = []
        for name, more in dead.items():
            mark = marks.get(name)
            bytes_dead = more + (mark.dead_bytes if mark else 0)
            if not bytes_dead and name in live:
                continue  # another row needs all of it
            was_due = bool(mark and mark.due and not mark.deleted)
            due = name not in live or (for_good and more > 0) or bytes_dead >= live[name] or was_due
            rows.append({"name": name, "at": self._now(), "dead_bytes": bytes_dead, "due": due, "deleted": False})
        await connection.execute(delete(WornPack).where(WornPack.name.in_(packs)))
        if rows:
            await connection.execute(self._database.insert_or_skip(WornPack), rows)

    async def _keep(self, connection: AsyncConnection, pack: Pack, marks: Sequence[bool]) -> None:
        """Before rows that point into a pack are added: it is there, whatever was deleted meanwhile.

        Args:
            marks: whether the pack is marked at all, and then whether it was deleted, as this turn has seen it.
        """
        if marks:
            await self._blobs.put(pack.name, pack.data)
            await connection.execute(delete(WornPack).where(WornPack.name == pack.name))

    async def _remove(self, name: str) -> None:
        copied = await self._copied(name)
        if copied is not None:
            await self._point(*copied)
        # In a turn of its own: whatever becomes of the deletion, no row points to the old pack any more.
        async with self._database.in_turn() as connection:
            if await connection.scalar(select(exists().where(Sample.pack == name))):
                return  # somebody has added to it meanwhile; it is still due, and swept the next time
            await self._blobs.delete([name])
            await connection.execute(update(WornPack).where(WornPack.name == name).values(deleted=True))

    async def _point(self, pack: Pack, moves: Sequence[dict[str, Any]]) -> None:
        """Let the rows point into the new pack, and mark what nobody needs there: it was purged while it was copied."""
        async with self._database.in_turn() as connection:
            marks = await connection.scalars(select(WornPack.deleted).where(WornPack.name == pack.name))
            await self._keep(connection, pack, list(marks))
            await connection.execute(_MOVED, moves)
            query = select(Sample.pack_start).where(Sample.pack == pack.name).distinct()
            there = set(await connection.scalars(query))
            dead = sum(move["size"] for move in moves if move["new_start"] not in there)
            if dead:
                await self._wear(connection, {pack.name: dead}, for_good=True)

    async def _copied(self, name: str) -> tuple[Pack, list[dict[str, Any]]] | None:
        """Put what is needed of a pack into a new one; returns it and where each one lies; None: nothing moves."""
        async with self._database.reading() as session:
            query = select(Sample.pack_start, Sample.payload_bytes).where(Sample.pack == name).distinct()
            live = [Range(*row) for row in await session.execute(query.order_by(Sample.pack_start))]
        if not live:
            return None
        try:
            payloads = await self._blobs.get(name, live)
        except NotFound:
            return None  # another replica was here first
        pack = pack_payloads(payloads)
        if pack.name == name:
            return None
        await self._blobs.put(pack.name, pack.data)
        return pack, [
            {"old": name, "old_start": was.start, "new": pack.name, "new_start": place.start, "size": place.size}
            for was, place in zip(live, pack.places, strict=True)
        ]
