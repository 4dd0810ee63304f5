"""Log lines that do not repeat themselves: an outage once and its end once; a recurring fault once a minute."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable


class Outage:
    """A condition that begins and ends; each is logged once."""

    def __init__(self, log: logging.Logger, over: str) -> None:
        self._log = log
        self._over = over
        self.active = False

    def begin(self, message: object) -> None:
        """Log the first time."""
        if not self.active:
            self._log.error("%s", message)
        self.active = True

    def end(self) -> None:
        """Log when there was an outage."""
        if self.active:
            self._log.info("%s", self._over)
        self.active = False


class Recurring:
    """Counts faults by key; at most one line a key and period, which says how many it stands for."""

    def __init__(self, log: logging.Logger, *, clock: Callable[[], float], period_s: float = 60.0) -> None:
        self._log = log
        self._clock = clock
        self._period_s = period_s
        self._said: dict[str, float] = {}
        self._unsaid: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()

    def note(self, key: str, message: object) -> None:
        """Count one; log it unless the same key was logged within the period. Keys come from a small, fixed set."""
        now = self._clock()
        self.counts[key] += 1
        if now - self._said.get(key, float("-inf")) < self._period_s:
            self._unsaid[key] += 1
            return
        self._said[key] = now
        others = self._unsaid.pop(key, 0)
        self._log.warning("%s%s", message, f" (and {others} more of the kind since)" if others else "")
