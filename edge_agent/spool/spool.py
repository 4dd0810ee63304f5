"""The spool: every offloaded sample, from the moment it is hard until the cloud says it has it.

Payloads lie in append-only segment files, one small row each in SQLite, and a catalogue of the rows in memory decides
who is sent next and who has to leave: a killed process loses nothing, a power cut at most the last `flush_interval_s`.
It is bounded in bytes and age and gives up the least valuable first (`value`). Thread-safe: `put` comes from the
source's thread, the rest from the uplink's.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from uuid import UUID

from edge_agent.spool.ages import DeviceClock
from edge_agent.spool.catalogue import Catalogue
from edge_agent.spool.disk import Refusals, Reserve
from edge_agent.spool.headers import pack, unpack
from edge_agent.spool.reading import SpooledSample, whole
from edge_agent.spool.rows import Rows
from edge_agent.spool.segments import Segments, sync
from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.turns import Turns, rank
from edge_agent.spool.value import worth
from shared import codec
from shared.codec import Array
from shared.errors import FrameError, StorageFull
from shared.messages import SampleHeader, SpoolState

log = logging.getLogger(__name__)

_SEGMENT_SHARE = 64
_MIN_SEGMENT_BYTES, _MAX_SEGMENT_BYTES = 64 * 1024, 4 * 1024**2
# What a sample takes beside its payload; it counts, or small samples would fill the disk and the memory.
_ROW_BYTES = 600
_AGE_CHECK_S = 10.0
# Let go in one commit; a sample that is put meanwhile waits for it.
_TOGETHER = 32


class Spool:
    """See the module. Opens or creates itself in `folder`.

    Raises:
        StorageFull: the disk is full or read-only.
    """

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
        self._monotonic, self._clock = monotonic, DeviceClock(wall, monotonic)
        self._lock, self._flushing = threading.RLock(), threading.Lock()
        self._reserve, self._refusals = Reserve(folder / "reserve"), Refusals()
        self._rows = Rows(folder / "spool.db", self._reserve, max_bytes=settings.max_bytes)
        self._catalogue = Catalogue(self._rows.catalogued(_ROW_BYTES), max_age_s=settings.max_age_s)
        segment_bytes = min(max(settings.max_bytes // _SEGMENT_SHARE, _MIN_SEGMENT_BYTES), _MAX_SEGMENT_BYTES)
        live = self._catalogue.segments()
        self._segments = Segments(folder / "segments", segment_bytes=segment_bytes, live=live)
        self._turns = Turns(settings)
        self._with_deferred = True
        self._next_age_check_s = monotonic()
        self._evicted: Counter[str] = Counter()
        self._refused = 0

    def put(
        self, header: SampleHeader, tensor: Array, *, deferred: bool = False, rarity: float = 0.0, sent: bool = False
    ) -> None:
        """Keep a sample.

        Args:
            deferred: it is for training only and may wait until `due` is asked for such samples; outlives a restart.
            rarity: in [0, 1]: how unlike it is to what went up lately; adds to what it is worth.
            sent: somebody waits, and the caller sends it now: it is due again like one that `due` has given.

        Raises:
            StorageFull: the disk is full or read-only, or the sample is worth less than all that is kept.
        """
        first, elements = codec.encode_array(tensor)
        packed, value = pack(header), worth(header, rarity)
        size, ranked = len(first) + len(elements) + _ROW_BYTES, rank(header, deferred=deferred, wanted=sent)
        with self._lock:
            created_s, number = self._clock.now_s(), self._catalogue.next_number
            place = None
            try:
                self._reserve.hold()
                self._make_room(size, value, created_s)
                place = self._segments.append(first, elements)
                self._rows.insert(
                    number, header.sample_id, created_s=created_s, value=value, place=place, rank=ranked, header=packed
                )
            except (OSError, sqlite3.Error) as err:
                if place is not None:
                    self._segments.take_back(place)
                self._refusals.refused(err)
                raise StorageFull(f"the spool's disk takes no more ({err}): free some space") from err
            self._refusals.ended()
            self._catalogue.add(
                header.sample_id, created_s=created_s, value=value, size=size, segment=place.segment, rank=ranked
            )
            if sent:
                self._catalogue.sent(number, self._monotonic())

    def due(self, limit: int, *, deferred: bool = True) -> list[SpooledSample]:
        """Up to `limit` samples to send now, marked as sent, in the order of `turns`; those without an answer again.

        At most about 1 MiB of them, but at least one; empty: there is nothing to send now.

        Args:
            deferred: False leaves lying all that nobody waits for, as far as `nobody_waits` has said so.
        """
        now, numbers = self._monotonic(), list[int]()
        try:
            while numbers := self._take_turns(now, limit, deferred=deferred):
                # Outside the lock, like every reading from the disk: no sample that is put waits for it.
                samples = [each for number in numbers if (each := self._load(number)) is not None]
                if samples:  # else all of them were damaged, and those behind them must not wait
                    return samples
        except (OSError, sqlite3.Error) as err:
            with self._lock:
                self._refusals.refused(err)
                for number in numbers:
                    self._catalogue.not_sent(number)
                # Nothing is due for a while, so that nobody asks in a circle.
                self._catalogue.put_off(now)
        return []

    def next_due_s(self) -> float | None:
        """Seconds until time alone makes a sample due, by what `due` was last asked for; None when it does not."""
        with self._lock:
            return self._turns.next_due_s(self._catalogue.table, self._monotonic(), deferred=self._with_deferred)

    def header(self, sample_id: UUID) -> SampleHeader | None:
        """The header of a sample that is still kept."""
        with self._lock:
            numbers = self._catalogue.find([sample_id])
        try:
            for number in numbers:
                if (row := self._rows.read(number)) is not None and row.sample_id == sample_id:
                    return unpack(sample_id, row.header)
        except sqlite3.Error as err:
            with self._lock:
                self._refusals.refused(err)
        except FrameError as err:
            log.debug("no header of %s, which goes when it is due: %s", sample_id, err)
        return None

    def acknowledge(self, ids: Iterable[UUID]) -> int:
        """Let go of what the cloud has; unknown ids are fine. Returns how many went.

        What a full disk does not let go of stays, is sent again in its time, and goes with the next answer.
        """
        named, gone = list(ids), 0
        for start in range(0, len(named), _TOGETHER):
            with self._lock:
                gone += self._let_go(self._catalogue.find(named[start : start + _TOGETHER]))
        return gone

    def refuse(self, sample_id: UUID) -> None:
        """Let go of what the cloud will never take."""
        with self._lock:
            self._refused += self._let_go(self._catalogue.find([sample_id]))

    def give_up(self, sample_id: UUID, reason: str) -> None:
        """Let go of what can never be sent, and count it as evicted for that reason."""
        with self._lock:
            self._evict(self._catalogue.find([sample_id]), reason)

    def not_sent(self, sample_id: UUID) -> None:
        """What was put in as `sent` was not sent after all: it is due at once."""
        with self._lock:
            for number in self._catalogue.find([sample_id]):
                self._catalogue.not_sent(number)

    def nobody_waits(self, sample_id: UUID) -> None:
        """Nobody waits any more for the answer to what was put in as `sent`, and it was not sent since."""
        with self._lock:
            for number in self._catalogue.find([sample_id]):
                self._catalogue.not_sent(number)
                self._catalogue.demote(number)

    def forget_attempts(self) -> None:
        """The connection is new: everything without an answer may be sent at once."""
        with self._lock:
            self._catalogue.forget_tries()

    def flush(self) -> None:
        """Make everything put so far survive a power cut; a refusal of the disk is said once."""
        with self._flushing:
            with self._lock:
                paths = self._segments.take_unsynced()
            try:
                # Outside the lock: a slow disk holds up the flush alone. Payloads first: no row without its payload.
                for path in paths:
                    sync(path)
                self._rows.flush(self._lock)
            except (OSError, sqlite3.Error) as err:
                with self._lock:
                    self._refusals.refused(err)

    def state(self) -> SpoolState:
        """What waits, and what was given up since this start."""
        with self._lock:
            return SpoolState(
                items=self._catalogue.items,
                bytes=self._catalogue.bytes,
                evicted=dict(self._evicted),
                refused=self._refused,
            )

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        with self._flushing, self._lock:
            self._segments.close()
            self._rows.close()

    def _take_turns(self, now: float, limit: int, *, deferred: bool) -> list[int]:
        with self._lock:
            self._with_deferred = deferred
            self._give_up_old(now)
            numbers = self._turns.due(self._catalogue.table, now, limit, deferred=deferred)
            for number in numbers:  # before anything can fail: nothing is tried twice in the same moment
                self._catalogue.sent(number, now)
            return numbers

    def _load(self, number: int) -> SpooledSample | None:
        row = self._rows.read(number)
        try:
            header, tensor = whole(row, self._segments)
        except FrameError as err:
            with self._lock:
                if self._catalogue.created_s(number) is not None:  # else it was let go of meanwhile
                    log.error("a spooled sample is given up: %s is %s", row.sample_id if row else "its row", err)
                    self._evict([number], "damaged")
            return None
        with self._lock:
            created_s = self._catalogue.created_s(number)
        return None if created_s is None else SpooledSample(header, tensor, self._clock.age_s(created_s))

    def _make_room(self, size: int, value: float, created_s: float) -> None:
        limit = self._settings.max_bytes
        if size > limit:
            raise StorageFull(f"a sample of {size:,} bytes is over [spool] max_bytes = {limit:,}")
        surplus = self._catalogue.bytes + size - limit
        if surplus <= 0:
            return
        leaving = self._catalogue.leaving(surplus, value, created_s)
        if leaving is None:
            self._evicted["space"] += 1
            raise StorageFull("the spool is full of more valuable samples: raise [spool] max_bytes")
        self._evict(leaving, "space")
        if self._catalogue.bytes + size > limit:
            raise StorageFull("the spool is full, and its disk too: free some space")

    def _give_up_old(self, now: float) -> None:
        """Evict by age, once a while; ages stay what they were when somebody set the device's clock in between."""
        if now < self._next_age_check_s:
            return
        if set_by := self._clock.was_set_by_s():
            # None is of the future: before a restart without a clock the right time may have been known.
            self._catalogue.shift(set_by, self._clock.now_s())
            self._rows.shift(set_by, until=self._catalogue.next_number - 1, latest_s=self._clock.now_s())
        # In parts: a spool full of old samples must not hold up the new ones.
        old = self._catalogue.older_than(self._clock.now_s() - self._settings.max_age_s, _TOGETHER)
        self._evict(old, "age")
        if len(old) < _TOGETHER:
            self._next_age_check_s = now + _AGE_CHECK_S

    def _evict(self, numbers: Sequence[int], reason: str) -> None:
        if gone := self._let_go(numbers):
            self._evicted[reason] += gone

    def _let_go(self, numbers: Sequence[int]) -> int:
        if not numbers:
            return 0
        try:
            self._rows.delete(numbers)
        except (OSError, sqlite3.Error) as err:
            self._refusals.refused(err)
            return 0
        for segment in self._catalogue.remove(numbers):
            self._segments.release(segment)
        return len(numbers)
