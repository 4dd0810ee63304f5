"""How far away the broker is: the time from a publish to its acknowledgement. Pure."""

from __future__ import annotations

# The weight of one more measurement: RFC 6298's SRTT.
_WEIGHT = 1 / 8


class RoundTrip:
    """Smoothed over the messages that left while nothing else waited: the others measure the queue before them."""

    def __init__(self) -> None:
        self._probe: int | None = None
        self._left_s = 0.0
        self._smoothed_s: float | None = None

    def left(self, mid: int, now_s: float) -> None:
        """A message left, and the broker owed no other answer."""
        self._probe, self._left_s = mid, now_s

    def answered(self, mid: int, now_s: float) -> None:
        """An answer came in."""
        if mid == self._probe:
            self._probe = None
            took_s, smoothed_s = now_s - self._left_s, self._smoothed_s
            self._smoothed_s = took_s if smoothed_s is None else smoothed_s + _WEIGHT * (took_s - smoothed_s)

    def seconds(self, now_s: float) -> float | None:
        """None before the first answer; longer, when the one that is owed takes longer than they usually do."""
        if self._probe is None or self._smoothed_s is None:
            return self._smoothed_s
        return max(self._smoothed_s, now_s - self._left_s)
