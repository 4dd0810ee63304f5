"""The spool's rows on disk: one small one a sample, in SQLite.

A row that was put is safe from a killed process at once, and from a power cut after the next `flush`. Nothing waits for
the disk's flush but `flush` itself: what comes while that keeps the database to itself is late, and joins it then.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from edge_agent.spool import shifts
from edge_agent.spool.catalogue import Rank, mark
from edge_agent.spool.connection import connect, transaction
from edge_agent.spool.database import open_checked
from edge_agent.spool.disk import Reserve
from edge_agent.spool.late import MAX_LATE, Late, Values
from edge_agent.spool.layout import INSERT, LAYOUT
from edge_agent.spool.segments import Place, sync
from edge_agent.spool.shifts import Shift

log = logging.getLogger(__name__)

# The log is moved into the database when it has grown to this: what is let go until then is never written there.
_MIN_LOG_BYTES, _MAX_LOG_BYTES = 64 * 1024, 1024**2
_LOG_SHARE = 64
# A commit writes a page, and sometimes a new one and what is above it.
_PAGES_A_COMMIT = 1.5
_LATE_INSERT = INSERT.replace("INSERT", "INSERT OR IGNORE", 1)
_DELETE = "DELETE FROM items WHERE number = ?"
_READER_CACHE_KB = 256
# Somebody who looks into the spool from outside holds up no more than this.
_READERS_END_MS = 1_000


@dataclass(frozen=True, slots=True)
class Row:
    """One sample's, as far as sending it needs it; `header` as `headers.pack` gives it."""

    sample_id: UUID
    place: Place
    header: bytes


class Rows:
    """See the module. The spool's lock guards it, but for `flush` and `read`."""

    def __init__(self, file: Path, reserve: Reserve, *, max_bytes: int) -> None:
        """Open the database; its log may take a part of `max_bytes`.

        Raises:
            StorageFull: the disk is full or read-only.
        """
        self._reserve = reserve
        self._database = open_checked(file, reserve)
        # Connections of their own: for the flush, whose checkpoints write and sync, which no sample may wait for, and
        # for reading, which a slow disk may hold up.
        self._checkpointer, self._reader = connect(file), connect(file)
        self._checkpointer.execute(f"PRAGMA busy_timeout={_READERS_END_MS}")
        self._reader.execute(f"PRAGMA cache_size=-{_READER_CACHE_KB}")
        self._log = file.with_name(f"{file.name}-wal")
        self._late = Late(file.with_name("late"))
        self._late_deletes: set[int] = set()
        self._late_shifts: list[Shift] = []
        log_bytes = min(max(max_bytes // _LOG_SHARE, _MIN_LOG_BYTES), _MAX_LOG_BYTES)
        (page_bytes,) = self._database.execute("PRAGMA page_size").fetchone()
        self._commits_a_log = int(log_bytes / (_PAGES_A_COMMIT * page_bytes))
        self._commits = 0  # since the log was last moved
        self._unsynced = False
        # The flush moves the log: whoever wrote meanwhile could be the one who waits for the disk.
        self._moving = False
        try:
            self._settle()
        except (OSError, sqlite3.Error) as err:
            log.warning("%d rows that were put late join the others at a later start: %s", len(self._late.rows), err)
        self._database.execute("PRAGMA busy_timeout=0")

    def catalogued(self, row_bytes: int) -> Iterator[tuple[object, ...]]:
        """Each row as the catalogue has it, by rising number."""
        past = shifts.read(self._database)
        query = "SELECT number, id, created_s, value, length, segment, rank FROM items ORDER BY number"
        found: Iterable[tuple[Any, ...]] = self._database.execute(query)
        if self._late.rows:  # the disk has refused them: they are here all the same
            found = sorted([*found, *map(_catalogued, self._late.rows.values())])
        for number, raw_id, created_s, value, length, segment, rank in found:
            own = mark(UUID(bytes=raw_id))
            then_s = shifts.moved(created_s, number, past)
            # Nobody waits any more for what was put before this start.
            yield number, own, then_s, 0.0, value, length + row_bytes, segment, 0, 0, max(rank, Rank.HARD)

    def insert(
        self, number: int, sample_id: UUID, *, created_s: float, value: float, place: Place, rank: Rank, header: bytes
    ) -> None:
        """Add a row.

        Raises:
            OSError, sqlite3.Error: the disk is full or read-only; nothing was added.
        """
        where = (place.segment, place.offset, place.length, place.crc)
        values = (number, sample_id.bytes, value, created_s, *where, int(rank), header)
        room = len(self._late.rows) < MAX_LATE
        try:
            if self._moving and room:
                self._late.put(values)
            else:
                self._database.execute(INSERT, values)
        except sqlite3.OperationalError as err:
            if not (_is_busy(err) and room):
                raise
            self._late.put(values)
        self._committed(1)

    def read(self, number: int) -> Row | None:
        """The row, None when there is none; in any thread; raises `sqlite3.Error` when it cannot be read."""
        # In this order: a row is in the database before it is not late any more.
        late = self._late.get(number)
        if late is None:
            query = "SELECT id, segment, offset, length, crc, header FROM items WHERE number = ?"
            found = self._reader.execute(query, (number,)).fetchone()
        else:
            _, raw_id, _, _, *where, _, header = late
            found = (raw_id, *where, header)
        if found is None:
            return None
        raw_id, segment, offset, length, crc, header = found
        return Row(UUID(bytes=raw_id), Place(segment, offset, length, crc), header)

    def delete(self, numbers: Sequence[int]) -> None:
        """Delete rows, all or none; on a full disk the reserve makes room for that.

        Raises:
            OSError, sqlite3.Error: the disk refuses even so.
        """
        try:
            if self._moving:
                self._late_deletes.update(numbers)
            else:
                self._delete(numbers)
        except sqlite3.OperationalError as err:
            if _is_busy(err):
                self._late_deletes.update(numbers)
            else:
                # Deleting needs room in the log, and the log has some again once it is in the database.
                self._reserve.give_up()
                self._checkpointer.execute("PRAGMA wal_checkpoint(RESTART)")
                self._delete(numbers)
        self._committed(len(numbers))

    def shift(self, seconds: float, *, until: int, latest_s: float) -> None:
        """Move the times of creation of all up to number `until`, none past `latest_s`.

        Raises:
            sqlite3.Error: the disk refuses.
        """
        self._late_shifts.append(Shift(until, seconds, latest_s))
        self._settle()

    def flush(self, lock: threading.RLock) -> None:
        """Make every row durable; `lock` is the spool's, and is not held while the disk works.

        Raises:
            OSError, sqlite3.Error: the disk refuses.
        """
        with lock:
            self._settle()
            unsynced, self._unsynced = self._unsynced, False
            self._moving = full = self._commits >= self._commits_a_log
        try:
            if unsynced:
                sync(self._log)
            if full:
                self._move_log()
                full = False
        finally:
            with lock:
                if self._moving:
                    self._moving, self._commits = False, self._commits if full else 0
                    self._settle()

    def close(self) -> None:
        """Close; the last one moves the log into the database."""
        with suppress(OSError, sqlite3.Error):  # what is late stays in its file, which the next start reads
            self._settle()
        self._late.close()
        self._checkpointer.close()
        self._reader.close()
        self._database.close()

    def _move_log(self) -> None:
        """Move the log into the database and begin it anew; what is put meanwhile is late for a moment."""
        self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        # The few that came meanwhile, with nobody who writes or reads: or the log would only ever grow.
        self._checkpointer.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        # The first commit into a log that begins anew waits for the disk: this one, so that no sample has to.
        self._checkpointer.execute(f"PRAGMA user_version={LAYOUT}")

    def _settle(self) -> None:
        """Let the database have what was late, if it is not busy."""
        if self._moving or not (self._late.rows or self._late_deletes or self._late_shifts):
            return
        rows = [values for number, values in self._late.rows.items() if number not in self._late_deletes]
        try:
            with transaction(self._database):
                self._database.executemany(_LATE_INSERT, rows)
                self._database.executemany(_DELETE, [(number,) for number in self._late_deletes])
                if self._late_shifts:
                    shifts.add(self._database, self._late_shifts)
        except sqlite3.OperationalError as err:
            if not _is_busy(err):
                raise
            return
        self._late_deletes.clear()
        self._late_shifts.clear()
        self._unsynced = True
        self._late.clear()

    def _committed(self, count: int) -> None:
        self._commits += count
        self._unsynced = True

    def _delete(self, numbers: Sequence[int]) -> None:
        # One that is late would come back: it goes with all that is.
        late = self._late.rows.keys() & set(numbers)
        self._late_deletes |= late
        if len(numbers) == 1:
            self._database.execute(_DELETE, numbers)
            return
        with transaction(self._database):
            self._database.executemany(_DELETE, [(number,) for number in numbers])


def _catalogued(values: Values) -> tuple[Any, ...]:
    """Of a late row what the catalogue is made of."""
    number, raw_id, value, created_s, segment, _, length, _, rank, _ = values
    return number, raw_id, created_s, value, length, segment, rank


def _is_busy(err: sqlite3.OperationalError) -> bool:
    # The low byte is the primary code of an extended one.
    return getattr(err, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
