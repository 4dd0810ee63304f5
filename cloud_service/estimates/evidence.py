"""What the store says about one device's samples of one task, as sums. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tally:
    """Samples that share these, with moments of their weights w = 1 / inclusion probability (Horvitz, Thompson 1952).

    Attributes:
        audit: drawn at random among the confident ones; False: sent up because it was hard.
        agreed: the device said what the teacher said; None: no verdict.
        in_time: the verdict came soon enough to be the answer in the end.
        edge_right, teacher_right: against the label that a person gave; None: there is none.
        weight, squares: Σw and Σw² over them.
    """

    device: str
    audit: bool
    agreed: bool | None
    in_time: bool
    edge_right: bool | None
    teacher_right: bool | None
    count: int
    weight: float
    squares: float


@dataclass(frozen=True, slots=True)
class Weighted:
    """Σ1, Σw and Σw² over some samples."""

    count: int = 0
    weight: float = 0.0
    squares: float = 0.0

    def __add__(self, other: Weighted) -> Weighted:
        return Weighted(self.count + other.count, self.weight + other.weight, self.squares + other.squares)

    @property
    def effective(self) -> float:
        """How many equally weighted samples tell as much, (Σw)² / Σw² (Kish 1965); 0 of none."""
        return self.weight**2 / self.squares if self.squares > 0 else 0.0

    @property
    def unseen(self) -> Weighted:
        """The same over w − 1: how many samples each one stands for beside itself."""
        return Weighted(self.count, self.weight - self.count, max(0.0, self.squares - 2 * self.weight + self.count))


def total(tallies: Iterable[Tally]) -> Weighted:
    """Their sum."""
    result = Weighted()
    for tally in tallies:
        result += Weighted(tally.count, tally.weight, tally.squares)
    return result


def by_device(tallies: Iterable[Tally]) -> dict[str, list[Tally]]:
    """The tallies of each device, by name."""
    found: dict[str, list[Tally]] = {}
    for tally in tallies:
        found.setdefault(tally.device, []).append(tally)
    return dict(sorted(found.items()))
