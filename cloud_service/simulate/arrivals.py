"""When samples come: patterns with a mean factor of 1, and the next arrival of a Poisson process along one. Pure.

A fleet's samples are the sum of its devices' own streams: one process at the sum of their rates, each arrival at a
device drawn evenly, is the same thing and costs one timer.
"""

from __future__ import annotations

import math
from enum import StrEnum
from random import Random

# Share of a burst's period in which everything comes.
_BURST_SHARE = 0.1
_DAY_SWING = 0.9


class Pattern(StrEnum):
    """How the rate goes over time."""

    STEADY = "steady"
    BURST = "burst"
    DAY = "day"


def factor(pattern: Pattern, at_s: float, *, period_s: float) -> float:
    """What the mean rate is multiplied by at that time.

    burst: ten times the rate in the first tenth of each period, nothing in the rest; day: a sine from 0.1 to 1.9 that
    begins at its lowest, at night.
    """
    match pattern:
        case Pattern.STEADY:
            return 1.0
        case Pattern.BURST:
            return 1.0 / _BURST_SHARE if at_s % period_s < _BURST_SHARE * period_s else 0.0
        case Pattern.DAY:
            return 1.0 - _DAY_SWING * math.cos(2.0 * math.pi * at_s / period_s)


def next_arrival(pattern: Pattern, at_s: float, *, rate: float, period_s: float, rng: Random) -> float:
    """The time of the first arrival after `at_s`, at a mean rate of `rate` a second.

    Source: thinning, Lewis and Shedler 1979: draw at the highest rate, keep with the chance of factor / highest.
    """
    highest = {Pattern.STEADY: 1.0, Pattern.BURST: 1.0 / _BURST_SHARE, Pattern.DAY: 1.0 + _DAY_SWING}[pattern]
    while True:
        at_s += rng.expovariate(rate * highest)
        if rng.random() * highest < factor(pattern, at_s, period_s=period_s):
            return at_s
