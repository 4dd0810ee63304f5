"""Limits that only refuse: token buckets over samples and over bytes. Pure; a bucket is full when it has rested."""

from __future__ import annotations

from typing import Final

# The worst so many samples hold at most so many times their share.
WORST_SAMPLES: Final = 500
WORST_FACTOR: Final = 1.25
DAY_S: Final = 86_400.0
# Of a day's bytes may go up at once; the rest comes by the second, so that no 24 hours hold more than a day's.
_AT_ONCE = 0.1


class RateBucket:
    """At most `share` of the samples: overall, and in any 500 of them at most 1.25 times that (or one more).

    Attributes:
        fullness: in [0, 1]; how much of what could be saved up is there.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self._capacity = max(1.0, share * WORST_SAMPLES * (WORST_FACTOR - 1.0))
        self.fullness = 0.5

    def admits(self) -> bool:
        """Whether one more sample may go up."""
        return self.fullness * self._capacity >= 1.0

    def passed(self, *, sent: bool) -> None:
        """A sample has passed, which brings its share, and was sent or not, which costs one."""
        change = self.share - 1.0 if sent else self.share
        self.fullness = min(1.0, self.fullness + change / self._capacity)


class ByteBucket:
    """At most `bytes_per_day` in any 24 hours, spread over the day.

    A sample larger than a tenth of a day's bytes passes a full bucket, which then has to be earned back.

    Attributes:
        fullness: at most 1, negative while such a sample is earned back.
        largest: the largest sample that has passed, from a tenth of the day's bytes on.
    """

    def __init__(self, bytes_per_day: int) -> None:
        self._day = float(bytes_per_day)
        self._capacity = _AT_ONCE * self._day
        self.largest = self._capacity
        self._filled_s: float | None = None
        self.fullness = 0.5

    @property
    def bytes_per_s(self) -> float:
        """What may go up in the long run."""
        return (self._day - self.largest) / DAY_S

    def admits(self, size_bytes: int, now_s: float) -> bool:
        """Whether a sample of that size may go up now."""
        self._fill(now_s)
        return size_bytes <= self._day and self.fullness * self._capacity >= min(size_bytes, self._capacity)

    def sent(self, size_bytes: int, now_s: float) -> None:
        """A sample of that size goes up."""
        self._fill(now_s)
        self.largest = min(max(self.largest, float(size_bytes)), self._day)
        self.fullness -= size_bytes / self._capacity

    def _fill(self, now_s: float) -> None:
        if self._filled_s is not None:
            earned = (now_s - self._filled_s) * self.bytes_per_s
            self.fullness = min(1.0, self.fullness + earned / self._capacity)
        self._filled_s = now_s
