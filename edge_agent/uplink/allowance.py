"""The hard cap of a day: what is voluntary is booked before it is sent; that it stops something is said once."""

from __future__ import annotations

import logging
import threading
from typing import Protocol

from edge_agent.ledger import Purpose

log = logging.getLogger(__name__)

# Why the spool gave up what no day has room for.
OVER_CAP = "over_cap"


class Capped(Protocol):
    """What counts the day's bytes: the ledger."""

    @property
    def capped(self) -> bool: ...

    def spend(self, purpose: Purpose, count: int) -> bool: ...

    def fits_a_day(self, count: int) -> bool: ...

    def day(self) -> int: ...


class Allowance:
    """What may still go up today. Thread-safe."""

    def __init__(self, ledger: Capped) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        self._spent_on: int | None = None
        self._told_of_one_too_large = False

    @property
    def unlimited(self) -> bool:
        """Whether everything is allowed, so that nobody needs to ask: the answer may take a write to the disk."""
        return not self._ledger.capped

    @property
    def spent(self) -> bool:
        """Whether something did not fit into the day that runs now."""
        with self._lock:
            if self._spent_on not in {None, self._ledger.day()}:
                self._spent_on = None
                log.info("a new day has begun for the cap of its bytes: what waited goes up again")
            return self._spent_on is not None

    def ever(self, count: int) -> bool:
        """Whether so many bytes fit into any day; one that is larger than the whole cap is said, once."""
        if self._ledger.fits_a_day(count):
            return True
        with self._lock:
            told, self._told_of_one_too_large = self._told_of_one_too_large, True
        if not told:
            log.error(
                "a message of %d bytes is larger than the cap of a whole day: it and its like are never sent, and are "
                "counted; raise [ledger] max_bytes_per_day, or make the samples smaller",
                count,
            )
        return False

    def spend(self, purpose: Purpose, count: int) -> bool:
        """Book `count` bytes that are about to go up; False: they do not fit into the day, and are not booked."""
        if self._ledger.spend(purpose, count):
            return True
        if not self.ever(count):
            return False  # and the day is not over for the others
        spent = self.spent
        with self._lock:
            self._spent_on = self._ledger.day()
        if not spent:
            log.warning(
                "%d bytes more are over the cap of a day: samples stay on the device and telemetry is left out until "
                "the day is over",
                count,
            )
        return False
