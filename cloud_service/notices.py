"""Log lines that do not repeat themselves: an outage once and its end once; a recurring fault once a minute."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

# Of a message, characters: devices decide what is in some.
_MAX_TEXT = 500


class Outage:
    """A condition that begins and ends; each is logged once, the beginning at `level`."""

    def __init__(self, log: logging.Logger, over: str, *, level: int = logging.ERROR) -> None:
        self._log = log
        self._over = over
        self._level = level
        self.active = False

    def begin(self, message: object) -> None:
        """Log the first time."""
        if not self.active:
            self._log.log(self._level, "%s", message)
        self.active = True

    def end(self) -> None:
        """Log when there was an outage."""
        if self.active:
            self._log.info("%s", self._over)
        self.active = False


class Recurring:
    """Counts faults by kind and logs the first of each; while they go on, one line a period says what else there was.

    `note` and `summarise` keep no clock running: whoever owns this calls `summarise` now and then.
    """

    def __init__(self, log: logging.Logger, *, clock: Callable[[], float], period_s: float = 60.0) -> None:
        self._log = log
        self._clock = clock
        self._period_s = period_s
        self._last: dict[str, float] = {}
        self._unsaid: Counter[str] = Counter()
        self._unsaid_since = 0.0
        self._latest: object = ""
        self.counts: Counter[str] = Counter()

    def note(self, kind: str, message: object) -> None:
        """Count one; log it if there was none of its kind for a period. Kinds come from a small, fixed set."""
        now = self._clock()
        self.counts[kind] += 1
        quiet_s = now - self._last.get(kind, float("-inf"))
        self._last[kind] = now
        if quiet_s >= self._period_s:
            self._log.warning("%s", _short(message))
            return
        if not self._unsaid:
            self._unsaid_since = now
        self._unsaid[kind] += 1
        self._latest = message

    def summarise(self) -> None:
        """Log what was not said, when a period has passed since the first of it."""
        if not self._unsaid or self._clock() - self._unsaid_since < self._period_s:
            return
        more = ", ".join(f"{kind} {count:,}" for kind, count in sorted(self._unsaid.items()))
        self._unsaid.clear()
        self._log.warning("in the last %g s also: %s; the latest: %s", self._period_s, more, _short(self._latest))


def _short(message: object) -> str:
    text = str(message)
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}… ({len(text):,} characters)"
