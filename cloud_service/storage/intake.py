"""How samples come into the store: payloads first, then rows; each once, wherever and how often it arrives.

What was deleted on request does not come back. Refused for good is a sample

- whose id was deleted: nothing that was ever here and was deleted returns, whatever a device's clock says; or
- of a device that was purged, where both its count and the time in its id (UUIDv7, RFC 9562) say that it was made
  before: it waited on the device meanwhile. A device that was set up anew counts from 0 but has a later time; one whose
  clock is behind has a larger count. Only one that is both new and behind is refused, until either has passed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import BindParameter, Connection, bindparam, select

from cloud_service.errors import StoreError
from cloud_service.storage.facts import Facts, First, Grave, ask, ask_known
from cloud_service.storage.models import Sample
from cloud_service.storage.packs import Place, pack_tensors
from cloud_service.storage.part import COUNT_DUPLICATES
from cloud_service.storage.payloads import Left, Payloads, new_pack_name
from cloud_service.storage.values import PURGED, Known, NewSample, answer_of
from shared.errors import StorageFull

# A row of `samples` before it is one.
_Columns = dict[str, Any]
_UUIDV7 = 7
_PACKED_AT_ONCE = 128 * 1024
_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
_ANSWERED = select(
    Sample.id, Sample.device, Sample.probabilities, Sample.teacher, Sample.embedding, Sample.temperature, Sample.failure
).where(Sample.id.in_(_IDS))


class Intake(Payloads):
    """A sample is stored when `add` has returned, not before."""

    async def add(self, samples: Sequence[NewSample]) -> dict[UUID, Known]:
        """Store new samples durably, payloads first; one that is there already changes nothing.

        A sample whose payload an earlier one of the same device and task has is stored as its duplicate and counted on
        it, where the task has duplicates.

        Returns:
            What is known of those that were stored before, or were deleted on request and are not stored again.

        Raises:
            StorageFull: there is no room; none of them has a row.
            StoreError: the database or the blob store failed; none of them has a row, or all do and the reply was lost.
        """
        if not samples:
            return {}
        tensors = [sample.tensor for sample in samples]
        # The way to a thread costs as much as the sums of some 100 KB do.
        small = sum(tensor.nbytes for tensor in tensors) <= _PACKED_AT_ONCE
        pack = pack_tensors(tensors) if small else await asyncio.to_thread(pack_tensors, tensors)
        name, stored_at = new_pack_name(), self._now()
        rows = [_row(sample, name, place, stored_at) for sample, place in zip(samples, pack.places, strict=True)]
        await self._blobs.put(name, pack.data)
        committing = False

        def add_rows(connection: Connection) -> dict[UUID, Known]:
            nonlocal committing
            known = self._add_rows(connection, rows)
            committing = True
            return known

        try:
            return await self._database.write(add_rows)
        except (StorageFull, StoreError):
            with suppress(StorageFull, StoreError):
                if committing:
                    # Whether it was committed is not known here: a turn of its own sees what became of it.
                    await self._delete_unneeded([name])
                else:
                    await self._blobs.delete([name])
            raise

    async def known(self, ids: Sequence[UUID]) -> dict[UUID, Known]:
        """Those of `ids` that are stored or were deleted on request, and what was answered."""
        return await self._database.ask(partial(_known, ids=ids)) if ids else {}

    def _add_rows(self, connection: Connection, rows: Sequence[_Columns]) -> dict[UUID, Known]:
        """Add rows of one pack; returns what is known of those that are there already, or are refused."""
        facts = self._ask(connection, rows)
        refused = _refused(rows, facts)
        here = facts.stored | refused
        new = [row for row in rows if row["id"] not in here]
        duplicates = self._insert(connection, new, facts.firsts)
        if duplicates or len(new) < len(rows):
            unneeded = [row for row in rows if row["id"] in here | duplicates]
            left = [Left(row["blob"], row["pack"], row["payload_bytes"]) for row in unneeded]
            # A duplicate's row says where its own bytes lie; those of the others must not stay: nobody could tell.
            self._leave(connection, left, for_good=len(new) < len(rows))
        known = _known(connection, ids=list(facts.stored)) if facts.stored else {}
        return known | {row["id"]: Known(row["device"], None, PURGED) for row in rows if row["id"] in refused}

    def _ask(self, connection: Connection, rows: Sequence[_Columns]) -> Facts:
        ids = [row["id"] for row in rows]
        devices = {row["device"] for row in rows}
        blobs = {row["blob"] for row in rows if row["task"] in self._near_duplicates}
        return ask(connection, ids=ids, devices=devices, blobs=blobs)

    def _insert(
        self, connection: Connection, rows: Sequence[_Columns], firsts: Mapping[tuple[str, str, str], First]
    ) -> frozenset[UUID]:
        """Add rows; returns those that became duplicates, which point to their first one's payload."""
        firsts = dict(firsts)
        fresh: dict[UUID, _Columns] = {}
        duplicates: dict[UUID, _Columns] = {}
        for row in rows:
            first = itself = First(row["id"], row["pack"], row["pack_start"])
            if row["task"] in self._near_duplicates:
                first = firsts.setdefault((row["device"], row["task"], row["blob"]), itself)
            if first.id == row["id"]:
                fresh[row["id"]] = row
            else:
                theirs = {"duplicate_of": first.id, "pack": first.pack, "pack_start": first.pack_start}
                theirs["own_pack"] = row["pack"]
                duplicates[row["id"]] = row | theirs
        insert = self._database.insert_or_skip(Sample)
        for some in (fresh, duplicates):
            if some:
                connection.execute(insert, list(some.values()))
        counts = Counter(row["duplicate_of"] for row in duplicates.values())
        if counts:
            more = [{"sample": first, "more": count} for first, count in counts.items()]
            connection.execute(COUNT_DUPLICATES, more)
        return frozenset(duplicates)


def _known(connection: Connection, *, ids: Sequence[UUID]) -> dict[UUID, Known]:
    stored, purged = ask_known(connection, ids)
    known = {one: Known(device, None, PURGED) for one, device in purged.items()}
    rows = connection.execute(_ANSWERED, {"ids": list(stored)}).all() if stored else []
    return known | {row.id: Known(row.device, answer_of(row), row.failure) for row in rows}


def _refused(rows: Sequence[_Columns], facts: Facts) -> frozenset[UUID]:
    late = {row["id"] for row in rows if any(_made_before(row, grave) for grave in facts.graves)}
    return frozenset((facts.purged | late) - facts.stored)


def _made_before(row: _Columns, grave: Grave) -> bool:
    """Whether a device's count and the time in the id both say that a sample was made before its device was purged."""
    if (row["device"], row["task"]) != (grave.device, grave.task) or row["seq"] > grave.seq_until:
        return False
    sample_id: UUID = row["id"]
    return sample_id.version != _UUIDV7 or sample_id.int >> 80 < grave.at.timestamp() * 1e3


def _row(sample: NewSample, pack: str, place: Place, stored_at: datetime) -> _Columns:
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
        "blob": place.blob,
        "pack": pack,
        "pack_start": place.start,
        "payload_bytes": place.size,
    }
