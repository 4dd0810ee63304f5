"""Who keeps samples until they are answered: the spool, and what it is held against."""

import os
import sqlite3
from pathlib import Path
from typing import Protocol
from uuid import UUID

from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.spool import Spool
from shared import codec, messages
from shared.codec import Array
from shared.messages import SampleHeader


class Contender(Protocol):
    """Somebody who keeps samples until they are answered."""

    def put(self, header: SampleHeader, tensor: Array) -> None: ...

    def flush(self) -> None: ...

    def answered(self, sample_id: UUID) -> None: ...

    def close(self) -> None: ...


class OurSpool:
    """The product's."""

    def __init__(self, folder: Path) -> None:
        self._spool = Spool(folder, SpoolSettings())

    def put(self, header: SampleHeader, tensor: Array) -> None:
        self._spool.put(header, tensor)

    def flush(self) -> None:
        self._spool.flush()

    def answered(self, sample_id: UUID) -> None:
        self._spool.acknowledge([sample_id])

    def close(self) -> None:
        self._spool.close()


class Blobs:
    """Header and payload in one row of SQLite (WAL, NORMAL), found by id; a checkpoint at each flush."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._database = _database(folder, "number INTEGER PRIMARY KEY, id BLOB UNIQUE, header BLOB, body BLOB")
        self._wal = folder / "rows.db-wal"

    def put(self, header: SampleHeader, tensor: Array) -> None:
        values = (header.sample_id.bytes, messages.encode(header), codec.encode(tensor))
        self._database.execute("INSERT INTO items (id, header, body) VALUES (?, ?, ?)", values)

    def flush(self) -> None:
        _sync(self._wal)
        self._database.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def answered(self, sample_id: UUID) -> None:
        self._database.execute("DELETE FROM items WHERE id = ?", (sample_id.bytes,))

    def close(self) -> None:
        self._database.close()


class Floor:
    """An append to one file, and a row without checksum, header, value or index; no bound, nothing in memory."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._database = _database(folder, "number INTEGER PRIMARY KEY, id BLOB, place INTEGER")
        self._wal, self._file = folder / "rows.db-wal", folder / "payloads"
        self._descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._numbers: dict[UUID, int | None] = {}
        self._place = 0

    def put(self, header: SampleHeader, tensor: Array) -> None:
        self._place += os.write(self._descriptor, codec.encode(tensor))
        values = (header.sample_id.bytes, self._place)
        row = self._database.execute("INSERT INTO items (id, place) VALUES (?, ?)", values)
        self._numbers[header.sample_id] = row.lastrowid

    def flush(self) -> None:
        os.fdatasync(self._descriptor)
        _sync(self._wal)

    def answered(self, sample_id: UUID) -> None:
        self._database.execute("DELETE FROM items WHERE number = ?", (self._numbers.pop(sample_id),))

    def close(self) -> None:
        os.close(self._descriptor)
        self._database.close()


CONTENDERS = {"spool": OurSpool, "blobs in SQLite": Blobs, "floor": Floor}


def _database(folder: Path, columns: str) -> sqlite3.Connection:
    database = sqlite3.connect(folder / "rows.db", isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "wal_autocheckpoint=0"):
        database.execute(f"PRAGMA {pragma}")
    database.execute(f"CREATE TABLE items ({columns})")
    return database


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    os.fdatasync(descriptor)
    os.close(descriptor)
