"""How often the device answers as the teacher would, told from audits. Pure: verdicts in, an estimate out."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from shared.intervals import wilson

# 250 audits tell an agreement near 0.97 within about two points.
WINDOW = 250


class Verdicts:
    """The last verdicts on one kind of sample: how many of them said something else than the device."""

    def __init__(self, record: str = "") -> None:
        self._differed = deque((mark == "x" for mark in record[-WINDOW:]), maxlen=WINDOW)
        self._differing = sum(self._differed)

    def __len__(self) -> int:
        return len(self._differed)

    @property
    def record(self) -> str:
        """The verdicts, oldest first, one character each; a new object takes it up from there."""
        return "".join("x" if differed else "." for differed in self._differed)

    def add(self, *, agreed: bool) -> None:
        """Take one verdict; the oldest of too many is forgotten."""
        if len(self._differed) == WINDOW:
            self._differing -= self._differed[0]
        self._differed.append(not agreed)
        self._differing += not agreed

    @property
    def differing(self) -> float:
        """Share of the verdicts that differ; a half while there are none."""
        return self._differing / len(self) if self._differed else 0.5

    @property
    def bounds(self) -> tuple[float, float]:
        """The 95 % interval of that share."""
        return wilson(self._differing, len(self))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share and its 95 % bounds."""

    value: float
    low: float
    high: float


def estimate(audited: Verdicts, offloaded: Verdicts, *, kept: float, left: float) -> Estimate:
    """The share of all answers that the teacher would give, those that it corrects among them.

    Args:
        audited: verdicts on confident samples, drawn at random.
        offloaded: verdicts on hard samples.
        kept: share of the samples that are confident and stayed; they differ as often as the audited.
        left: share that is hard and stayed nevertheless; they differ as often as the hard ones that went up.
    """
    (few, many), (few_left, many_left) = audited.bounds, offloaded.bounds
    return Estimate(
        value=max(0.0, 1.0 - kept * audited.differing - left * offloaded.differing),
        low=max(0.0, 1.0 - kept * many - left * many_left),
        high=min(1.0, 1.0 - kept * few - left * few_left),
    )
