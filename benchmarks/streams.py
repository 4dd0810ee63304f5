"""Streams of scores that drift, for `budget.py`. They are made, not measured.

Three of four samples are easy (log-odds of 1 − p about −6.5 ± 2.2), one is not (−1.5 ± 1.3), and in domain the teacher
differs as often as the score says. `shift`, `ramp` and `bursts` add 1.5 (bursts: 2.5) standard deviations and make the
model surer than it should be; `overconfident` leaves the scores as they are and makes it wrong more often; `film` is
the shift with neighbours that resemble each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.manifest import ScoreSpread

COUNT, HALF = 20_000, 10_000
HIGHEST = math.log(9.0)  # ten classes
DEVIATION = 2.9

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Stream:
    """Scores of a device's samples, and where the teacher would answer otherwise."""

    scores: Floats
    differs: Flags


def stream(drift: str, seed: int, count: int = COUNT) -> Stream:
    """One stream of samples."""
    rng = np.random.default_rng(seed)
    odds = _odds(rng, count)
    if drift == "film":  # the same values in an order in which each resembles the one before
        walk = rng.normal(size=count)
        for index in range(1, count):
            walk[index] = 0.9 * walk[index - 1] + math.sqrt(1 - 0.81) * walk[index]
        odds = np.sort(odds)[np.argsort(np.argsort(walk))]
    moved = _moved(drift, count)
    odds = np.clip(odds + moved * DEVIATION, -16.0, HIGHEST)
    late = np.arange(count) >= count / 2
    surer = 2.0 * late if drift == "overconfident" else 1.0 * (moved > 0)
    return Stream(_sigmoid(odds), rng.random(count) < _sigmoid(odds + surer))


def calibrated(seed: int, *, offload: float | None = None, agreement: float = 0.0) -> tuple[float, ScoreSpread]:
    """Threshold and spread as the cloud finds them in domain: for a share of hard samples, or for an agreement."""
    rng = np.random.default_rng(10_000 + seed)
    odds = np.sort(np.clip(_odds(rng, 4000), -16.0, HIGHEST))[::-1]
    if offload is None:
        taken = needed(Stream(_sigmoid(odds), rng.random(len(odds)) < _sigmoid(odds)), agreement)
    else:
        taken = round(offload * len(odds))
    spread = ScoreSpread(mean=float(odds.mean()), deviation=float(odds.std()), low=float(odds[-1]), high=float(odds[0]))
    return float(_sigmoid(odds)[taken]), spread


def needed(given: Stream, agreement: float) -> int:
    """How many of the hardest would have to go up for this agreement, by one who knows all answers."""
    order = np.argsort(-given.scores, kind="stable")
    left = given.differs.sum() - np.concatenate([[0], np.cumsum(given.differs[order])])
    return int(np.argmax(left <= (1 - agreement) * len(order)))


def _odds(rng: np.random.Generator, count: int) -> Floats:
    """In domain."""
    easy = rng.random(count) < 0.75
    return np.where(easy, rng.normal(-6.5, 2.2, count), rng.normal(-1.5, 1.3, count))


def _moved(drift: str, count: int) -> Floats:
    """How far the log-odds are moved, in standard deviations."""
    part = np.arange(count) / count
    match drift:
        case "shift" | "film":
            return 1.5 * (part >= 0.5).astype(np.float64)
        case "ramp":
            return np.asarray(1.5 * np.clip(2 * (part - 0.25), 0, 1))
        case "bursts":
            return 2.5 * (part * 10 % 1 < 0.1).astype(np.float64)
    return np.zeros(count)


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-values)))
