"""The spool: every offloaded sample, from the moment it is hard until the cloud says it has it.

Payloads lie in append-only segment files, one small row each in SQLite (WAL, `synchronous=NORMAL`): a killed process
loses nothing, a power cut at most the last `flush_interval_s`. It is bounded in bytes and age and gives up the least
valuable first: audits before hard samples, then the less hard ones. Thread-safe: `put` comes from the source's thread,
the rest from the uplink's.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from edge_agent.spool.rows import Reserve, open_again, open_checked, sync_file
from edge_agent.spool.segments import Place, Segments
from edge_agent.spool.settings import SpoolSettings
from shared import codec, messages
from shared.codec import Array
from shared.errors import FrameError, StorageFull
from shared.messages import Reason, SampleHeader, SpoolState

log = logging.getLogger(__name__)

_Row = tuple[int, bytes, float, int, int, int, int, bytes]
_COLUMNS = "number, id, created_s, segment, offset, length, crc, header"
_INSERT = f"INSERT INTO items (id, value, {_COLUMNS.partition('id, ')[2]}) VALUES (?,?,?,?,?,?,?,?)"  # noqa: S608  # fixed text
# An audit is worth less than any hard sample, whose score is added to this.
_HARD_VALUE = 1.0
_SEGMENT_SHARE = 64
# What a row and its place in the indices cost beside the payload; they count, or small samples would fill the disk.
_ROW_BYTES = 600
_AGE_CHECK_S = 10.0
_CLOCK_DRIFT_S = 60.0
# Read and sent at once: more would hold the lock, the memory and a slow line for too long.
_DUE_BYTES = 1024**2
_MIN_SEGMENT_BYTES, _MAX_SEGMENT_BYTES = 64 * 1024, 4 * 1024**2


@dataclass(frozen=True, slots=True)
class SpooledSample:
    """A sample that waits; `age_s` since it was put in, by the device's clock, never negative."""

    header: SampleHeader
    tensor: Array
    age_s: float


@dataclass(slots=True)
class _Attempt:
    number: int
    count: int
    again_at_s: float


class Spool:
    """See the module. Opens or creates itself in `folder`."""

    def __init__(
        self,
        folder: Path,
        settings: SpoolSettings,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._settings = settings
        self._monotonic, self._wall = monotonic, wall
        self._lock = threading.RLock()
        self._reserve = Reserve(folder / "reserve")
        self._database = open_checked(folder / "spool.db", self._reserve)
        # A connection of its own, for the flush alone: checkpoints write and sync, which no sample may wait for.
        self._checkpointer = open_again(folder / "spool.db")
        counts = self._database.execute("SELECT segment, COUNT(*) FROM items GROUP BY segment").fetchall()
        share = settings.max_bytes // _SEGMENT_SHARE
        segment_bytes = min(max(share, _MIN_SEGMENT_BYTES), _MAX_SEGMENT_BYTES)
        self._segments = Segments(folder / "segments", segment_bytes=segment_bytes, live=dict(counts))
        self._items, self._bytes = self._database.execute(
            "SELECT COUNT(*), IFNULL(SUM(length + ?), 0) FROM items", (_ROW_BYTES,)
        ).fetchone()
        self._sent: dict[UUID, _Attempt] = {}
        self._cursor = 0
        self._wall_offset_s = wall() - monotonic()
        self._next_age_check_s = monotonic()
        self._evicted: Counter[str] = Counter()
        self._refused = 0
        self._full = False
        self._wal = folder / "spool.db-wal"

    def put(self, header: SampleHeader, tensor: Array) -> None:
        """Keep a sample.

        Raises:
            StorageFull: the disk is full or read-only, or the sample is worth less than all that is kept.
        """
        payload = codec.encode(tensor)
        value = header.hardness if header.reason is Reason.AUDIT else _HARD_VALUE + header.hardness
        with self._lock:
            try:
                self._reserve.hold()
                self._make_room(len(payload) + _ROW_BYTES, value)
                place = self._segments.append(payload)
                self._insert(header, place, value)
            except (OSError, sqlite3.Error) as err:
                self._say_full(err)
                raise StorageFull(f"the spool's disk takes no more ({err}): free some space") from err
            self._say_ended()
            self._items += 1
            self._bytes += len(payload) + _ROW_BYTES

    def due(self, limit: int) -> list[SpooledSample]:
        """Up to `limit` samples to send now, marked as sent; oldest first, those without an answer again in time.

        At most about 1 MiB of them, but at least one; empty: there is nothing to send now.
        """
        now = self._monotonic()
        with self._lock:
            try:
                self._give_up_old()
                while rows := self._next_rows(now, limit):
                    samples = [sample for row in rows if (sample := self._load(row, now)) is not None]
                    if samples:  # else all of them were damaged, and those behind them must not wait
                        return samples
            except (OSError, sqlite3.Error) as err:
                self._say_full(err)
                self._put_off(now)
            return []

    def next_due_s(self) -> float | None:
        """Seconds until a sent sample should be sent again; None when none waits for an answer."""
        with self._lock:
            again = min((attempt.again_at_s for attempt in self._sent.values()), default=None)
        return None if again is None else max(0.0, again - self._monotonic())

    def header(self, sample_id: UUID) -> SampleHeader | None:
        """The header of a sample that is still kept."""
        with self._lock:
            try:
                row = self._database.execute("SELECT header FROM items WHERE id = ?", (sample_id.bytes,)).fetchone()
            except sqlite3.Error as err:
                self._say_full(err)
                return None
        return messages.decode(SampleHeader, row[0]) if row else None

    def acknowledge(self, ids: Iterable[UUID]) -> int:
        """Let go of what the cloud has; unknown ids are fine. Returns how many went.

        What a full disk does not let go of stays, is sent again in its time, and goes with the next answer.
        """
        gone = 0
        for sample_id in ids:
            with self._lock:  # one at a time: a sample that is put meanwhile does not wait for all of them
                gone += self._delete(sample_id)
        return gone

    def refuse(self, sample_id: UUID) -> None:
        """Let go of what the cloud will never take."""
        with self._lock:
            self._refused += self._delete(sample_id)

    def forget_attempts(self) -> None:
        """The connection is new: everything without an answer may be sent at once."""
        with self._lock:
            self._sent.clear()
            self._cursor = 0

    def flush(self) -> None:
        """Make everything put so far survive a power cut; a refusal of the disk is said once."""
        with self._lock:
            files = [*self._segments.take_unsynced(), self._wal]
        try:
            # Outside the lock: a slow disk holds up the flush alone, never a sample.
            for file in files:
                sync_file(file)
            self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except (OSError, sqlite3.Error) as err:
            with self._lock:
                self._say_full(err)

    def state(self) -> SpoolState:
        """What waits and what was given up, since this start."""
        with self._lock:
            return SpoolState(items=self._items, bytes=self._bytes, evicted=dict(self._evicted), refused=self._refused)

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        with self._lock:
            self._segments.close()
            self._checkpointer.close()
            self._database.close()

    def _insert(self, header: SampleHeader, place: Place, value: float) -> None:
        where = (place.segment, place.offset, place.length, place.crc)
        values = (header.sample_id.bytes, value, self._wall(), *where, messages.encode(header))
        try:
            self._database.execute(_INSERT, values)
        except sqlite3.Error:
            self._segments.take_back(place)
            raise

    def _next_rows(self, now: float, limit: int) -> list[_Row]:
        rows = self._overdue(now, limit)
        rows += self._unsent(min(limit - len(rows), self._settings.max_unanswered - len(self._sent)))
        size, taken = 0, 0
        while taken < len(rows) and (taken == 0 or size + rows[taken][5] <= _DUE_BYTES):
            size += rows[taken][5]
            taken += 1
        return rows[:taken]

    def _unsent(self, limit: int) -> list[_Row]:
        if limit <= 0:
            return []
        query = f"SELECT {_COLUMNS} FROM items WHERE number > ? ORDER BY number LIMIT ?"  # noqa: S608  # fixed text
        rows: list[_Row] = self._database.execute(query, (self._cursor, limit)).fetchall()
        return rows

    def _put_off(self, now: float) -> None:
        """The rows cannot be read now: nothing is due for a while, so that nobody asks in a circle."""
        for attempt in self._sent.values():
            attempt.again_at_s = max(attempt.again_at_s, now + self._settings.resend_after_s)

    def _overdue(self, now: float, limit: int) -> list[_Row]:
        numbers = [attempt.number for attempt in self._sent.values() if attempt.again_at_s <= now][:limit]
        marks = ",".join("?" * len(numbers))
        query = f"SELECT {_COLUMNS} FROM items WHERE number IN ({marks}) ORDER BY number"  # noqa: S608  # fixed text
        rows: list[_Row] = self._database.execute(query, numbers).fetchall()
        return rows

    def _load(self, row: _Row, now: float) -> SpooledSample | None:
        number, raw_id, created_s, *where, header = row
        sample_id, place = UUID(bytes=raw_id), Place(*where)
        self._cursor = max(self._cursor, number)
        try:
            sample_header, payload = messages.decode(SampleHeader, header), self._segments.read(place)
        except FrameError as err:
            log.error("the header of a spooled sample is damaged or another release's: %s", err)
            payload = None
        if payload is None:
            log.error("a spooled sample is not whole (a power loss?) and is given up: %s", sample_id)
            self._evict(sample_id, "damaged")
            self._sent.pop(sample_id, None)
            return None
        attempt = self._sent.get(sample_id) or _Attempt(number, 0, 0.0)
        wait = min(self._settings.resend_after_s * 2.0**attempt.count, self._settings.resend_cap_s)
        attempt.count, attempt.again_at_s = min(attempt.count + 1, 60), now + wait
        self._sent[sample_id] = attempt
        age = max(0.0, self._wall() - created_s)
        return SpooledSample(sample_header, codec.decode(payload), age)

    def _make_room(self, size: int, value: float) -> None:
        if size > self._settings.max_bytes:
            raise StorageFull(f"a sample of {size:,} bytes is over [spool] max_bytes = {self._settings.max_bytes:,}")
        surplus = self._bytes + size - self._settings.max_bytes
        if surplus <= 0:
            return
        leaving: list[bytes] = []
        query = "SELECT id, length FROM items WHERE value <= ? ORDER BY value, number"
        for raw_id, length in self._database.execute(query, (value,)):
            leaving.append(raw_id)
            surplus -= length + _ROW_BYTES
            if surplus <= 0:
                break
        if surplus > 0:
            self._evicted["space"] += 1
            raise StorageFull("the spool is full of more valuable samples: raise [spool] max_bytes")
        for raw_id in leaving:
            self._evict(UUID(bytes=raw_id), "space")
        if self._bytes + size > self._settings.max_bytes:
            raise StorageFull("the spool is full, and its disk too: free some space")

    def _give_up_old(self) -> None:
        """Evict by age, once a while; ages stay what they were when somebody set the device's clock in between."""
        now = self._monotonic()
        if now < self._next_age_check_s:
            return
        self._next_age_check_s = now + _AGE_CHECK_S
        clock_was_set_by = self._wall() - now - self._wall_offset_s
        if abs(clock_was_set_by) > _CLOCK_DRIFT_S:
            self._wall_offset_s += clock_was_set_by
            # None is of the future: before a restart without a clock the right time may have been known.
            shift = (clock_was_set_by, self._wall())
            self._database.execute("UPDATE items SET created_s = MIN(created_s + ?, ?)", shift)
        oldest = self._wall() - self._settings.max_age_s
        # The first in order are the oldest; asking all rows for their age would hold up the samples of a full spool.
        query = "SELECT id FROM (SELECT id, created_s FROM items ORDER BY number LIMIT 1000) WHERE created_s < ?"
        rows = self._database.execute(query, (oldest,)).fetchall()
        for (raw_id,) in rows:
            self._evict(UUID(bytes=raw_id), "age")

    def _evict(self, sample_id: UUID, reason: str) -> None:
        self._evicted[reason] += self._delete(sample_id)

    def _delete(self, sample_id: UUID) -> int:
        try:
            row = self._delete_row(sample_id)
        except (OSError, sqlite3.Error) as err:
            self._say_full(err)
            return 0
        self._sent.pop(sample_id, None)
        if row is None:
            return 0
        self._items -= 1
        self._bytes -= row[1] + _ROW_BYTES
        self._segments.release(row[0])
        return 1

    def _delete_row(self, sample_id: UUID) -> tuple[int, int] | None:
        query = "DELETE FROM items WHERE id = ? RETURNING segment, length"
        try:
            row: tuple[int, int] | None = self._database.execute(query, (sample_id.bytes,)).fetchone()
        except sqlite3.OperationalError:
            # Deleting needs room in the log, and the log has some again once it is in the database.
            self._reserve.give_up()
            self._checkpointer.execute("PRAGMA wal_checkpoint(RESTART)")
            row = self._database.execute(query, (sample_id.bytes,)).fetchone()
        return row

    def _say_full(self, err: Exception) -> None:
        if not self._full:
            log.error(
                "the spool's disk takes no more (%s): samples are not kept, inference goes on; free some space", err
            )
        self._full = True

    def _say_ended(self) -> None:
        if self._full:
            log.info("the spool's disk takes samples again")
        self._full = False
