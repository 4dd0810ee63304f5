"""What each threshold costs and brings: how much goes up, how often the final answer is the teacher's. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Point:
    """One threshold.

    Attributes:
        budget: the largest share of samples that it may send up.
        threshold: a sample is hard when its score is at or above it.
        offload_rate: expected share that is hard; below the budget where equal scores cannot be told apart.
        agreement: expected share of final answers (own or the verdict) equal to the teacher's.
    """

    budget: float
    threshold: float
    offload_rate: float
    agreement: float


class Curve:
    """Every threshold over rows of known outcome.

    Args:
        hard: scores [n] float32, higher is harder; n > 0.
        wrong: whether the student's own answer is not the teacher's [n].
        weight: [n], how many of the stream each row stands for.
    """

    def __init__(self, hard: NDArray[np.float32], wrong: Flags, weight: Floats) -> None:
        order = np.argsort(-hard, kind="stable")
        share = weight[order].astype(np.float64) / weight.sum(dtype=np.float64)
        self._falling = hard[order]
        # Entry k: what offloading the k hardest costs and leaves wrong.
        self._offload = np.concatenate([[0.0], np.cumsum(share)])
        self._left = np.concatenate([[0.0], np.cumsum((share * wrong[order])[::-1])])[::-1]

    @property
    def alone(self) -> float:
        """Agreement of the student's own answers."""
        return float(1.0 - self._left[0])

    def would_need(self, goal: float) -> float:
        """The smallest share of samples whose offload reaches the agreement `goal`."""
        return float(self._offload[self._needed(goal)])

    def at_budget(self, budget: float) -> Point:
        """The threshold that spends the budget."""
        return self._point(self._affordable(budget), budget=budget)

    def reaching(self, goal: float, *, floor: float, budget: float) -> Point:
        """The smallest offload that reaches the agreement `goal`, between the floor and the budget."""
        wanted = max(self._needed(goal), int(np.searchsorted(self._offload, floor - _ROUNDING)))
        return self._point(min(wanted, self._affordable(budget)), budget=budget)

    def _needed(self, goal: float) -> int:
        return int(np.argmax(self._left <= 1.0 - goal + _ROUNDING))

    def _affordable(self, budget: float) -> int:
        return int(np.searchsorted(self._offload, budget + _ROUNDING, side="right")) - 1

    def _point(self, count: int, *, budget: float) -> Point:
        threshold = _between(self._falling, count)
        taken = int((self._falling >= threshold).sum())  # equal scores go together
        return Point(budget, threshold, float(self._offload[taken]), float(1.0 - self._left[taken]))


def _between(falling: NDArray[np.float32], count: int) -> float:
    """A threshold that takes the first `count` of falling scores, half way to the next.

    It is a float32, as the scores are, so that no device's comparison rounds it onto one of them.
    """
    if count >= len(falling):
        return float(falling[-1])
    following = falling[count]
    upper = falling[count - 1] if count > 0 else np.float32(1.0)
    middle = (upper + following) / np.float32(2.0)
    # Equal neighbours cannot be told apart: take neither, the budget is a limit.
    return float(middle if middle > following else np.nextafter(following, np.float32(np.inf)))
