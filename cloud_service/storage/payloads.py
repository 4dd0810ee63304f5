"""How payloads leave the blob store: never while a row needs them.

Rows point into packs (`packs`). A pack's name is drawn at random and used once: by whoever adds samples, or by a sweep
that moves payloads. Rows are added, pointed elsewhere and taken away in turn, and a row that comes to share another's
payload does so in a turn that has seen that other row. So a pack that no row points to stays so, and may be deleted.

1. Who takes rows away notes in `worn_packs` what their packs have lost, in the same transaction. A pack is due when
   nothing in it is needed, when half of it is not, or when something in it was deleted on request.
2. `sweep` puts what is still needed of a pack that is due into a new one, which is noted beforehand, and points the
   rows there: that is committed before anything is deleted.
3. In a turn of its own it marks the pack as deleted if no row points to it. Only after that commit the blob store is
   told, and then the mark goes.

Each step may be repeated, by any replica and after a crash; what the marks tell is done by the next sweep. A process
that ends between a pack of new samples and its rows leaves a pack that nothing points to and nothing finds.

A replica of the first release names an object by its payload's hash, so it may put one that is being deleted here; see
docs/storage.md for how to upgrade.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, bindparam, delete, func, or_, select, update

from cloud_service.errors import NotFound
from cloud_service.storage.blobs import Range
from cloud_service.storage.models import Sample, WornPack
from cloud_service.storage.packs import pack_payloads
from cloud_service.storage.part import StorePart

# Longer than anybody takes to fill a new pack and point rows there.
_FILLED_WITHIN = timedelta(days=1)
# Packs in one transaction: others wait that long for their turn.
_PACKS = 500
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
        forgotten = (WornPack.dead_bytes == 0) & (WornPack.at < self._now() - _FILLED_WITHIN)
        async with self._database.in_turn() as connection:
            # Rows that a replica of the first release has added while both run.
            await connection.execute(update(Sample).where(Sample.pack == "").values(pack=Sample.blob))
            due = list(
                await connection.scalars(select(WornPack.name).where(or_(WornPack.due, WornPack.deleted, forgotten)))
            )
        # What needs no room first: it makes some.
        gone = await self._delete_unneeded(due)
        waiting = [name for name in due if name not in gone]
        while waiting:
            name = waiting.pop()
            waiting += await self._move(name)
            gone |= await self._delete_unneeded([name])
        return len(gone)

    def _leave(self, connection: Connection, left: Sequence[Left], *, for_good: bool) -> None:
        """Note what rows that were taken away, or not added, leave behind in their packs."""
        if not left:
            return
        sizes = {(row.blob, row.pack): row.size for row in left}
        dead: dict[str, int] = {row.pack: 0 for row in left}
        rows = connection.execute(select(Sample.blob, Sample.pack).where(Sample.pack.in_(dead)).distinct())
        needed = {(row.blob, row.pack) for row in rows}
        for place, size in sizes.items():
            if place not in needed:
                dead[place[1]] += size
        self._wear(connection, dead, for_good=for_good)

    def _wear(self, connection: Connection, dead: dict[str, int], *, for_good: bool) -> None:
        packs = list(dead)
        live_rows = (
            select(Sample.pack, func.sum(Sample.payload_bytes))
            .where(Sample.pack.in_(packs), Sample.duplicate_of.is_(None))
            .group_by(Sample.pack)
        )
        live = {row[0]: int(row[1]) for row in connection.execute(live_rows)}
        worn = select(WornPack.name, WornPack.dead_bytes, WornPack.due, WornPack.deleted).where(
            WornPack.name.in_(packs)
        )
        marks = {row.name: row for row in connection.execute(worn)}
        rows: list[dict[str, Any]] = []
        for name, more in dead.items():
            mark = marks.get(name)
            bytes_dead = more + (mark.dead_bytes if mark else 0)
            if not bytes_dead and name in live:
                continue  # another row needs all of it
            was_due = bool(mark and mark.due and not mark.deleted)
            due = name not in live or (for_good and more > 0) or bytes_dead >= live[name] or was_due
            rows.append({"name": name, "at": self._now(), "dead_bytes": bytes_dead, "due": due, "deleted": False})
        connection.execute(delete(WornPack).where(WornPack.name.in_(packs)))
        if rows:
            connection.execute(self._database.insert_or_skip(WornPack), rows)

    async def _delete_unneeded(self, names: Sequence[str]) -> set[str]:
        """Delete those packs that no row points to, and say which."""
        gone: set[str] = set()
        for start in range(0, len(names), _PACKS):
            some = names[start : start + _PACKS]
            async with self._database.in_turn() as connection:
                needed = set(await connection.scalars(select(Sample.pack).where(Sample.pack.in_(some)).distinct()))
                of_first_release = select(Sample.blob).where(Sample.pack == "", Sample.blob.in_(some))
                needed |= set(await connection.scalars(of_first_release))
                unneeded = [name for name in some if name not in needed]
                await connection.execute(update(WornPack).where(WornPack.name.in_(unneeded)).values(deleted=True))
            if unneeded:
                await self._blobs.delete(unneeded)
                async with self._database.in_turn() as connection:
                    await connection.execute(delete(WornPack).where(WornPack.name.in_(unneeded)))
            gone.update(unneeded)
        return gone

    async def _move(self, name: str) -> list[str]:
        """Put what is needed of a pack into a new one, and point the rows there; returns the new one if it is due."""
        async with self._database.reading() as session:
            query = select(Sample.pack_start, Sample.payload_bytes).where(Sample.pack == name).distinct()
            live = [Range(*row) for row in await session.execute(query.order_by(Sample.pack_start))]
        if not live:
            return []
        try:
            payloads = await self._blobs.get(name, live)
        except NotFound:
            return []  # another replica was here first; or they are lost, and the rows stay to say so
        pack, new = pack_payloads(payloads), new_pack_name()
        noted = {"name": new, "at": self._now(), "dead_bytes": 0, "due": False, "deleted": False}
        async with self._database.in_turn() as connection:
            await connection.execute(self._database.insert_or_skip(WornPack), [noted])
        await self._blobs.put(new, pack.data)
        moved = [
            {"old": name, "old_start": was.start, "new": new, "new_start": place.start, "size": place.size}
            for was, place in zip(live, pack.places, strict=True)
        ]
        async with self._database.in_turn() as connection:
            note = delete(WornPack).where(WornPack.name == new, ~WornPack.deleted)
            if not (await connection.execute(note)).rowcount:
                return []  # it took so long that another sweep took the new pack for a crashed one's
            await connection.execute(_MOVED, moved)
            sizes = {place.start: place.size for place in pack.places}
            worn = await connection.run_sync(self._wear_unclaimed, new, sizes)
        return [new] if worn else []

    def _wear_unclaimed(self, connection: Connection, pack: str, sizes: Mapping[int, int]) -> bool:
        """Note payloads that were purged, or moved by somebody else, while they were being put into a new pack."""
        claimed = set(connection.scalars(select(Sample.pack_start).where(Sample.pack == pack).distinct()))
        unclaimed = sum(size for start, size in sizes.items() if start not in claimed)
        if unclaimed:
            self._wear(connection, {pack: unclaimed}, for_good=True)
        return unclaimed > 0


def new_pack_name() -> str:
    """A name that no pack had before."""
    return uuid4().hex
