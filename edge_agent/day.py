"""The running day of a device that may have no clock of its own: 86,400 s, and the bytes that were spent in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

DAY_S = 86_400.0


class Day:
    """Counts `spent` and starts anew when the day is over.

    While the agent runs, the day ages by the monotonic clock alone: a clock that is set does not end it. Over a restart
    it ages by what the wall clock moved forward, if it did: a device without a clock pays with a longer day, never with
    a second allowance.

    Attributes:
        number: counts the days since this start.
        spent: bytes of the running day.
        granted: what may be spent without saving again; after a crash it counts as spent.
    """

    def __init__(
        self,
        saved: Mapping[str, Any] | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Begin a day, or go on with the one that `as_dict` gave before a restart.

        Raises:
            ValueError, KeyError, TypeError: `saved` is not what `as_dict` gives.
        """
        self._monotonic, self._wall = monotonic, wall
        self._began_s = monotonic()
        self.spent = self.granted = self.number = 0
        if saved is None:
            return
        spent, age_s, wall_s = int(saved["spent"]), float(saved["age_s"]), float(saved["wall_s"])
        if spent < 0 or not 0.0 <= age_s <= DAY_S:
            raise ValueError(f"a day of {age_s} s with {spent} bytes")
        self.spent = self.granted = spent
        self._began_s -= age_s + max(0.0, wall() - wall_s)

    def add(self, count: int) -> None:
        """Spend."""
        self._turn()
        self.spent += count

    def today(self) -> int:
        """Bytes spent in the day that runs now."""
        self._turn()
        return self.spent

    def today_is(self) -> int:
        """The number of the day that runs now."""
        self._turn()
        return self.number

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        self._turn()
        age_s = self._monotonic() - self._began_s
        return {"spent": max(self.spent, self.granted), "age_s": round(age_s, 3), "wall_s": round(self._wall(), 3)}

    def _turn(self) -> None:
        now = self._monotonic()
        if now - self._began_s >= DAY_S:
            # Days follow each other without a gap, whenever the first byte of the new one is booked.
            self._began_s = now - (now - self._began_s) % DAY_S
            self.spent = self.granted = 0
            self.number += 1
