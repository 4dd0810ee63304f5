"""What an addition has to know of the database, asked in one statement: each costs as much as many rows do."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Connection,
    Select,
    String,
    Uuid,
    bindparam,
    cast,
    literal,
    null,
    select,
    union_all,
)
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.types import TypeEngine

from cloud_service.storage.models import PurgedSample, Sample, Tombstone, UtcTime


class _Kind(IntEnum):
    """What a row of the answer is about."""

    STORED = 0
    PURGED = 1
    GRAVE = 2
    FIRST = 3


_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
_DEVICES: BindParameter[Any] = bindparam("devices", expanding=True)
_BLOBS: BindParameter[Any] = bindparam("blobs", expanding=True)


@dataclass(frozen=True, slots=True)
class Grave:
    """A device's samples of one task were deleted for good; see `models.Tombstone`."""

    device: str
    task: str
    seq_until: int
    at: datetime


@dataclass(frozen=True, slots=True)
class First:
    """A sample that stands for its duplicates: whose payload a new one has, and where that lies."""

    id: UUID
    pack: str
    pack_start: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What is there already.

    Attributes:
        stored, purged: ids.
        firsts: by device, task and payload.
    """

    stored: set[UUID] = field(default_factory=set)
    purged: set[UUID] = field(default_factory=set)
    graves: list[Grave] = field(default_factory=list)
    firsts: dict[tuple[str, str, str], First] = field(default_factory=dict)


_TYPES: Mapping[str, TypeEngine[Any]] = {
    "id": Uuid(),
    "device": String(),
    "task": String(),
    "blob": String(),
    "pack": String(),
    "number": BigInteger(),
    "at": UtcTime(),
}


def _part(kind: _Kind, columns: Mapping[str, ColumnElement[Any] | InstrumentedAttribute[Any]]) -> Select[Any]:
    """One SELECT of the union: the columns that it has, and NULL for those of the others."""
    found = [
        columns[name].label(name) if name in columns else cast(null(), of).label(name) for name, of in _TYPES.items()
    ]
    return select(literal(kind.value, BigInteger()).label("kind"), *found)


_KNOWN = (
    _part(_Kind.STORED, {"id": Sample.id, "device": Sample.device}).where(Sample.id.in_(_IDS)),
    _part(_Kind.PURGED, {"id": PurgedSample.id, "device": PurgedSample.device}).where(PurgedSample.id.in_(_IDS)),
)
_GRAVE = {"device": Tombstone.device, "task": Tombstone.task, "number": Tombstone.seq_until, "at": Tombstone.at}
_FIRST = {
    "id": Sample.id,
    "device": Sample.device,
    "task": Sample.task,
    "blob": Sample.blob,
    "pack": Sample.pack,
    "number": Sample.pack_start,
}
_QUESTION = union_all(
    *_KNOWN,
    _part(_Kind.GRAVE, _GRAVE).where(Tombstone.device.in_(_DEVICES)),
    _part(_Kind.FIRST, _FIRST).where(
        # Devices that see the same are many (a dark picture), so only those that ask.
        Sample.blob.in_(_BLOBS),
        Sample.device.in_(_DEVICES),
        Sample.duplicate_of.is_(None),
    ),
)
_KNOWN_QUESTION = union_all(*_KNOWN)


def ask(
    connection: Connection,
    *,
    ids: Collection[UUID],
    devices: Collection[str],
    blobs: Collection[str],
) -> Facts:
    """What is known of samples, devices, and payloads that may have been stored before."""
    values = {"ids": list(ids), "devices": list(devices), "blobs": list(blobs)}
    facts = Facts()
    for row in connection.execute(_QUESTION, values):
        match row.kind:
            case _Kind.STORED:
                facts.stored.add(row.id)
            case _Kind.PURGED:
                facts.purged.add(row.id)
            case _Kind.GRAVE:
                facts.graves.append(Grave(row.device, row.task, row.number, row.at))
            case _:
                facts.firsts[row.device, row.task, row.blob] = First(row.id, row.pack or row.blob, row.number)
    return facts


def ask_known(connection: Connection, ids: Collection[UUID]) -> tuple[set[UUID], Mapping[UUID, str]]:
    """Which samples are stored; and which were deleted on request, with their devices."""
    rows = connection.execute(_KNOWN_QUESTION, {"ids": list(ids)}).all()
    return {row.id for row in rows if row.kind == _Kind.STORED}, {
        row.id: row.device for row in rows if row.kind == _Kind.PURGED
    }
