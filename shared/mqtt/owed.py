"""The answers that a broker owes: who waits for each, how many bytes they stand for, and for how long none has come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shared.errors import ConnectionLost
from shared.mqtt.round_trip import RoundTrip

# Without any answer for so long the connection is lost, although nothing said so. What waits to be written adds to it,
# at this rate: on a slow line the last of many publishes is late, not lost.
_PATIENCE_S = 20.0
_SLOWEST_LINE_BYTES_S = 8_000


@dataclass(slots=True)
class Debt:
    """One answer that is owed.

    Attributes:
        about: the topic of what went out, or what it was.
        waiter: whoever waits for it; None: nobody does.
    """

    about: str
    size: int
    waiter: asyncio.Future[Any] | None = None


class Owed:
    """By the message id of what went out. The connection's lock guards it.

    Attributes:
        bytes: that went out and were not answered.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.bytes = 0
        self._clock = clock
        self._debts: dict[int, Debt] = {}
        self._round_trip = RoundTrip()
        self._answered_s = 0.0

    def __len__(self) -> int:
        return len(self._debts)

    @property
    def round_trip_s(self) -> float | None:
        """Smoothed time from what went out to its answer."""
        return self._round_trip.seconds(self._clock())

    def expect(self, mid: int, debt: Debt, *, from_afar: bool = True) -> None:
        """Something has just gone out.

        Args:
            from_afar: False: our own side answers, when the message is written.
        """
        if not self._debts:
            self._answered_s = self._clock()
            if from_afar:
                self._round_trip.left(mid, self._answered_s)
        self._debts[mid] = debt
        self.bytes += debt.size

    def settle(self, mid: int, answer: object) -> Debt | None:
        """An answer came in: its waiter gets it. None: nobody expects it, which is fine."""
        self._answered_s = self._clock()
        self._round_trip.answered(mid, self._answered_s)
        debt = self._debts.pop(mid, None)
        if debt is None:
            return None
        self.bytes -= debt.size
        if debt.waiter is not None and not debt.waiter.done():
            debt.waiter.set_result(answer)
        return debt

    def fail(self, why: str) -> None:
        """No answer will come any more: `ConnectionLost` for all who wait."""
        for debt in self._debts.values():
            if debt.waiter is not None and not debt.waiter.done():
                debt.waiter.set_exception(ConnectionLost(f"connection lost: {why}"))
        self._debts.clear()
        self.bytes = 0

    def overdue_s(self) -> float | None:
        """For how long nothing came, if that is too long."""
        silent_s = self._clock() - self._answered_s
        return silent_s if self._debts and silent_s > _PATIENCE_S + self.bytes / _SLOWEST_LINE_BYTES_S else None
