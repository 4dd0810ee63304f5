"""The spool's rows on disk: one small one a sample, in SQLite.

A row that was put is safe from a killed process at once, and from a power cut after the next `flush`.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from edge_agent.spool.catalogue import Rank, mark
from edge_agent.spool.connection import connect, transaction
from edge_agent.spool.database import open_checked
from edge_agent.spool.disk import Reserve
from edge_agent.spool.layout import INSERT, LAYOUT
from edge_agent.spool.segments import Place, sync

# The log is moved into the database when it has grown to this: what is let go until then is never written there.
_MIN_LOG_BYTES, _MAX_LOG_BYTES = 64 * 1024, 1024**2
_LOG_SHARE = 64
# A commit writes a page, and sometimes a new one and what is above it.
_PAGES_A_COMMIT = 1.5


@dataclass(frozen=True, slots=True)
class Row:
    """One sample's, as far as sending it needs it; `header` as `headers.pack` gives it."""

    sample_id: UUID
    created_s: float
    place: Place
    header: bytes


class Rows:
    """See the module. The spool's lock guards it, but for `flush`."""

    def __init__(self, file: Path, reserve: Reserve, *, max_bytes: int) -> None:
        """Open the database; its log may take a part of `max_bytes`.

        Raises:
            StorageFull: the disk is full or read-only.
        """
        self._reserve = reserve
        self._database = open_checked(file, reserve)
        # A connection of its own, for the flush alone: checkpoints write and sync, which no sample may wait for.
        self._checkpointer = connect(file)
        self._log = file.with_name(f"{file.name}-wal")
        log_bytes = min(max(max_bytes // _LOG_SHARE, _MIN_LOG_BYTES), _MAX_LOG_BYTES)
        (page_bytes,) = self._database.execute("PRAGMA page_size").fetchone()
        self._commits_a_log = int(log_bytes / (_PAGES_A_COMMIT * page_bytes))
        self._commits = 0  # since the log was last moved
        self._unsynced = False

    def catalogued(self, row_bytes: int) -> Iterator[tuple[object, ...]]:
        """Each row as the catalogue has it, by rising number."""
        query = "SELECT number, id, created_s, value, length, segment, rank FROM items ORDER BY number"
        for number, raw_id, created_s, value, length, segment, rank in self._database.execute(query):
            own = mark(UUID(bytes=raw_id))
            # Nobody waits any more for what was put before this start.
            yield number, own, created_s, 0.0, value, length + row_bytes, segment, 0, 0, max(rank, Rank.HARD)

    def insert(
        self, number: int, sample_id: UUID, *, created_s: float, value: float, place: Place, rank: Rank, header: bytes
    ) -> None:
        """Add a row.

        Raises:
            sqlite3.Error: the disk is full or read-only; nothing was added.
        """
        where = (place.segment, place.offset, place.length, place.crc)
        self._database.execute(INSERT, (number, sample_id.bytes, value, created_s, *where, rank, header))
        self._committed(1)

    def read(self, number: int) -> Row | None:
        """The row, None when there is none; raises `sqlite3.Error` when it cannot be read."""
        query = "SELECT id, created_s, segment, offset, length, crc, header FROM items WHERE number = ?"
        found = self._database.execute(query, (number,)).fetchone()
        if found is None:
            return None
        raw_id, created_s, segment, offset, length, crc, header = found
        return Row(UUID(bytes=raw_id), created_s, Place(segment, offset, length, crc), header)

    def delete(self, numbers: Sequence[int]) -> None:
        """Delete rows, all or none; on a full disk the reserve makes room for that.

        Raises:
            OSError, sqlite3.Error: the disk refuses even so.
        """
        try:
            self._delete(numbers)
        except sqlite3.OperationalError:
            # Deleting needs room in the log, and the log has some again once it is in the database.
            self._reserve.give_up()
            self._checkpointer.execute("PRAGMA wal_checkpoint(RESTART)")
            self._delete(numbers)
        self._committed(len(numbers))

    def shift(self, seconds: float, latest_s: float) -> None:
        """Move every time of creation, none past `latest_s`; raises `sqlite3.Error` when the disk refuses."""
        self._database.execute("UPDATE items SET created_s = MIN(created_s + ?, ?)", (seconds, latest_s))
        self._committed(self._commits_a_log)

    def flush(self, lock: threading.RLock) -> None:
        """Make every row durable; `lock` is the spool's, and is not held while the disk works.

        Raises:
            OSError, sqlite3.Error: the disk refuses.
        """
        with lock:
            unsynced, self._unsynced = self._unsynced, False
            full = self._commits >= self._commits_a_log
        if unsynced:
            sync(self._log)
        if not full:
            return
        self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)")
        with lock:
            self._commits = 0
            # The first commit into an emptied log waits for the disk: this one, so that hardly ever a sample has to.
            self._database.execute(f"PRAGMA user_version={LAYOUT}")

    def close(self) -> None:
        """Close; the last one moves the log into the database."""
        self._checkpointer.close()
        self._database.close()

    def _committed(self, count: int) -> None:
        self._commits += count
        self._unsynced = True

    def _delete(self, numbers: Sequence[int]) -> None:
        query = "DELETE FROM items WHERE number = ?"
        if len(numbers) == 1:
            self._database.execute(query, numbers)
            return
        with transaction(self._database):
            self._database.executemany(query, [(number,) for number in numbers])
