"""Counts and bytes by purpose, saved on the device so that they survive restarts, and the hard cap of a day."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from edge_agent.day import Day
from shared import atomic
from shared.errors import StorageFull
from shared.messages import LedgerBytes, TaskCounts

log = logging.getLogger(__name__)


class Purpose(StrEnum):
    """What bytes on the wire were for."""

    SAMPLES = "samples"
    VERDICTS = "verdicts"
    UPDATES = "updates"
    TELEMETRY = "telemetry"
    OUTCOMES = "outcomes"


class Contact(StrEnum):
    """What a person asks of a device's link: when was it last so?"""

    CONNECTED = "connected"
    DELIVERED = "delivered"


# The cap is granted to the wire in so many parts, each saved before it is used: a crash costs one, and overspends none.
_GRANTS = 64


class Ledger:
    """Thread-safe counters; `save` writes them to `file` when they changed."""

    def __init__(
        self, file: Path, *, max_bytes_per_day: int | None = None, wall: Callable[[], float] = time.time
    ) -> None:
        self._file, self._wall = file, wall
        self._cap = max_bytes_per_day
        self._day = Day()
        self._lock, self._saving = threading.Lock(), threading.Lock()
        self._bytes: Counter[str] = Counter()
        self._counts: dict[str, Counter[str]] = {}
        self._contacts: dict[str, float] = {}
        self._saved = ""
        self._failing = False
        self._starts = 0
        self._load()
        self._starts += 1
        self.save()

    @property
    def starts(self) -> int:
        """How often the agent has started on this device, this time included."""
        return self._starts

    @property
    def capped(self) -> bool:
        """Whether a day has a cap; without one `spend` always agrees and never touches the disk."""
        return self._cap is not None

    def add_bytes(self, purpose: Purpose, count: int, *, in_day: bool = True) -> None:
        """Book `count` payload bytes; `in_day`: the day's cap counts them."""
        with self._lock:
            self._bytes[purpose.value] += count
            if in_day:
                self._day.add(count)

    def book_outcomes(self, count: int, in_day: bool) -> None:  # noqa: FBT001  # see `sinks.context`
        """Book the bytes of what others than the cloud are told."""
        self.add_bytes(Purpose.OUTCOMES, count, in_day=in_day)

    def reached(self, contact: Contact) -> None:
        """It has just happened."""
        with self._lock:
            self._contacts[contact.value] = round(self._wall(), 3)

    def spend(self, purpose: Purpose, count: int) -> bool:
        """Book `count` bytes that are about to go up; False: the day has no room for them, and nothing is booked.

        May write to the disk, and returns when that is done: after a crash no more counts as spent than this allowed.
        """
        with self._lock:
            beyond = False
            if self._cap is not None:
                wanted = self._day.today() + count
                if wanted > self._cap:
                    return False
                beyond = wanted > self._day.granted
                if beyond:
                    self._day.granted = min(self._cap, wanted + self._cap // _GRANTS)
            self._bytes[purpose.value] += count
            self._day.add(count)
        if beyond:
            self.save()
        return True

    def fits_a_day(self, count: int) -> bool:
        """Whether an empty day has room for `count` bytes."""
        return self._cap is None or count <= self._cap

    def has_room(self, count: int) -> bool:
        """Whether the running day has room for `count` more bytes."""
        with self._lock:
            return self._cap is None or self._day.today() + count <= self._cap

    def day(self) -> int:
        """The number of the running day, counted since this start."""
        with self._lock:
            return self._day.today_is()

    def bytes_today(self) -> int:
        """Bytes of the running day, both ways and for every purpose."""
        with self._lock:
            return self._day.today()

    def count(self, task: str, *names: str) -> None:
        """Add one to each named field of the task's `TaskCounts`."""
        with self._lock:
            counter = self._counts.get(task)
            if counter is None:
                counter = self._counts[task] = Counter()
            for name in names:
                counter[name] += 1

    def bytes(self) -> LedgerBytes:
        """Bytes by purpose."""
        with self._lock:
            return LedgerBytes.model_validate(dict(self._bytes))

    def counts(self) -> dict[str, TaskCounts]:
        """Counts by task."""
        with self._lock:
            return {task: TaskCounts.model_validate(dict(counter)) for task, counter in self._counts.items()}

    def save(self) -> None:
        """Write the counters, atomically, if they changed; a disk that refuses is said once."""
        with self._saving:  # several threads save, and an older state must not replace a newer one
            self._save()

    def _save(self) -> None:
        with self._lock:
            value = {
                "starts": self._starts,
                "bytes": dict(self._bytes),
                "tasks": {task: dict(c) for task, c in self._counts.items()},
                "day": self._day.as_dict(),
                "contacts": dict(self._contacts),
            }
        text = json.dumps({**value, "day": self._day.granted}, sort_keys=True)
        if text == self._saved:
            return
        try:
            atomic.write_json(self._file, value)
        except (OSError, StorageFull) as err:
            if not self._failing:
                log.error("counts are not saved (%s); inference goes on", err)
            self._failing = True
            return
        self._saved, self._failing = text, False

    def close(self) -> None:
        """Save for the last time: what was granted and not spent is spendable after the restart."""
        with self._lock:
            self._day.granted = 0
            self._saved = ""
        self.save()

    def _load(self) -> None:
        try:
            value = json.loads(self._file.read_bytes())
            LedgerBytes.model_validate(value["bytes"])
            for counts in value["tasks"].values():
                TaskCounts.model_validate(counts)
            self._starts = int(value["starts"])
            self._day = Day(value.get("day"))
            contacts = {name: float(at_s) for name, at_s in value.get("contacts", {}).items()}
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as err:
            log.warning("the saved counts in %s cannot be read (%s): counting starts at zero", self._file, err)
            return
        self._bytes, self._contacts = Counter(value["bytes"]), contacts
        self._counts = {task: Counter(counts) for task, counts in value["tasks"].items()}
