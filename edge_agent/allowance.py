"""The hard cap of a day, asked before anything voluntary is sent; that it stops something is said once, and its end."""

from __future__ import annotations

import logging
from typing import Protocol

log = logging.getLogger(__name__)


class Capped(Protocol):
    """What counts the day's bytes: the ledger."""

    @property
    def capped(self) -> bool: ...

    def allows(self, count: int) -> bool: ...

    def bytes_today(self) -> int: ...


class Allowance:
    """What may still go up today."""

    def __init__(self, ledger: Capped) -> None:
        self._ledger = ledger
        self._spent_at: int | None = None

    @property
    def unlimited(self) -> bool:
        """Whether everything is allowed, so that nobody needs to ask: the answer may take a write to the disk."""
        return not self._ledger.capped

    @property
    def spent(self) -> bool:
        """Whether something did not fit into the day that runs now."""
        if self._spent_at is not None and self._ledger.bytes_today() < self._spent_at:
            self._spent_at = None
            log.info("a new day has begun for the cap of its bytes: what waited goes up again")
        return self._spent_at is not None

    def allows(self, count: int) -> bool:
        """Whether `count` bytes may go up now; those that may are to be booked by whoever sends them."""
        spent = self.spent
        if self._ledger.allows(count):
            return True
        if not spent:
            self._spent_at = today = self._ledger.bytes_today()
            log.warning(
                "%d bytes of today's are spent and %d more are over the cap of a day: samples stay on the device and "
                "telemetry is left out until the day is over",
                today,
                count,
            )
        return False
