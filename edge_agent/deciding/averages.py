"""Averages over the last samples, of which nothing but one number is kept."""

from __future__ import annotations

LONG = 500
LONGER = 2000  # for what swings with every verdict


class Average:
    """The mean of what was seen, and from `long` values on one that forgets the older ones exponentially.

    Attributes:
        value: the average; before the first value what it was made with.
        seen: how many values, as far as that still matters.
    """

    __slots__ = ("_long", "seen", "value")

    def __init__(self, value: float = 0.0, seen: int = 0, *, long: int = LONG) -> None:
        self.value = value
        self.seen = min(seen, long)
        self._long = long

    @property
    def pair(self) -> tuple[float, int]:
        """What a new one is made with to go on from here."""
        return self.value, self.seen

    def observe(self, value: float) -> None:
        """Take one value."""
        if self.seen < self._long:
            self.seen += 1
        self.value += (value - self.value) / self.seen
