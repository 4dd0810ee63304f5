"""Waiting times between tries: a generator of bounds, and jitter as a function of one."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random


def exponential(first_s: float, cap_s: float, factor: float = 2.0) -> Iterator[float]:
    """Endless upper bounds in seconds: first, first·factor, … never above `cap_s`."""
    if not (0 < first_s <= cap_s and factor >= 1):
        raise ValueError("backoff needs 0 < first <= cap and factor >= 1")
    bound = first_s
    while True:
        yield bound
        bound = min(bound * factor, cap_s)


def full_jitter(bound_s: float, rng: Random) -> float:
    """A wait drawn evenly from [0, bound]: a fleet that lost its broker at once does not come back at once.

    Source: "Exponential backoff and jitter", AWS Architecture Blog, 2015.
    """
    return rng.uniform(0.0, bound_s)
