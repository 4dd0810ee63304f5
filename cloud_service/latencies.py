"""How long samples take, counted in buckets as Prometheus wants them; since the start of this process. Pure."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

# Upper ends, inclusive, in seconds; what takes longer than the last is in a bucket of its own. A deadline is a fraction
# of a second, a backlog minutes.
BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


@dataclass(slots=True)
class Histogram:
    """Durations; `counts`: one a bucket, not cumulated."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    sum_s: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one; less than nothing is nothing."""
        seconds = max(0.0, seconds)
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds

    def cumulated(self) -> list[tuple[float | None, int]]:
        """How many took no longer than each bound; None: all."""
        found: list[tuple[float | None, int]] = []
        count = 0
        for bound, more in zip((*BOUNDS_S, None), self.counts, strict=True):
            count += more
            found.append((bound, count))
        return found


@dataclass(slots=True)
class Latencies:
    """By task, from a sample's arrival here until it was stored, and until its verdict was sent."""

    stored: dict[str, Histogram] = field(default_factory=dict)
    answered: dict[str, Histogram] = field(default_factory=dict)

    def note_stored(self, task: str, seconds: float) -> None:
        """A sample was stored."""
        self.stored.setdefault(task, Histogram()).add(seconds)

    def note_answered(self, task: str, seconds: float) -> None:
        """A verdict was sent."""
        self.answered.setdefault(task, Histogram()).add(seconds)
