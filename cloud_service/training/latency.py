"""One model's time against another's, measured so that the machine's mood falls on both alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Run = Callable[[Array], object]

_ROUNDS = 200
_WARM_UP = 20
_MIDDLE_95 = 1.96


@dataclass(frozen=True, slots=True)
class LatencyRatio:
    """One model's time for one sample over another's.

    Attributes:
        ratio: median over pairs of runs.
        low, high: its 95 % interval.
        new_us, old_us: the medians of each, in microseconds, for people.
    """

    ratio: float
    low: float
    high: float
    new_us: float
    old_us: float


def compare_latency(new: Run, old: Run, sample: Array, *, rounds: int = _ROUNDS) -> LatencyRatio:
    """How long one sample takes `new` as a multiple of `old`, told from pairs of runs that follow each other.

    A ratio within one run means the same on a slow day; microseconds do not. In every second pair the other one is
    first, so that neither always finds the caches as the other left them. The interval is the median's by order
    statistics (Conover 1999, "Practical nonparametric statistics", 3.2).

    Raises:
        ValueError: fewer than 10 rounds, of which no interval can be told.
    """
    if rounds < 10:
        raise ValueError(f"{rounds} rounds tell no interval: take 10 or more")
    one = sample[None]
    for runner in (new, old) * _WARM_UP:
        runner(one)
    times = np.empty((rounds, 2))
    for number in range(rounds):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            start = time.perf_counter()
            (new, old)[which](one)
            times[number, which] = time.perf_counter() - start
    ratios = np.sort(times[:, 0] / times[:, 1])
    reach = int(np.ceil(_MIDDLE_95 * np.sqrt(rounds) / 2.0))
    medians = np.median(times, axis=0) * 1e6
    return LatencyRatio(
        ratio=float(np.median(ratios)),
        low=float(ratios[max(0, rounds // 2 - reach)]),
        high=float(ratios[min(rounds - 1, rounds // 2 + reach)]),
        new_us=float(medians[0]),
        old_us=float(medians[1]),
    )
