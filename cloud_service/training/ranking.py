"""How good a hardness score is: AUROC, AURC and reliability of weighted rows, in numpy alone. Pure.

Every row has a weight, 1 / the probability that a sample like it was sent, so that each number estimates that of the
whole stream. A row is *wrong* when the student's answer is not the teacher's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]

BINS = 15


@dataclass(frozen=True, slots=True)
class Ranking:
    """What a score is worth at telling wrong answers from right ones.

    Attributes:
        auroc: the probability that a wrong answer scores above a right one, equal scores counting half: 0.5 is chance;
            None where every answer is right, or every one wrong.
        aurc: mean risk over every coverage, 0 is best; see `aurc`.
    """

    auroc: float | None
    aurc: float


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of about one confidence.

    Attributes:
        low, high: the bin holds a top probability in [low, high).
        confidence: mean top probability.
        right: share that is right; a calibrated model has them equal.
        share: of all answers that fall into the bin.
        rows: how many were seen.
    """

    low: float
    high: float
    confidence: float
    right: float
    share: float
    rows: int


def rank(scores: Floats, wrong: Flags, weight: Floats) -> Ranking:
    """Both numbers of one score; arguments as in `auroc`."""
    return Ranking(auroc=auroc(scores, wrong, weight), aurc=aurc(scores, wrong, weight))


def auroc(scores: Floats, wrong: Flags, weight: Floats) -> float | None:
    """Area under the receiver operating characteristic, as the Mann–Whitney statistic U / (n₁·n₀).

    Hanley and McNeil 1982, "The meaning and use of the area under a ROC curve"; a pair counts with the product of its
    weights.

    Args:
        scores: [n], higher is harder; none is NaN.
        wrong: [n].
        weight: [n], positive.

    Returns:
        None where one of the two kinds is missing.
    """
    _, block = np.unique(scores, return_inverse=True)
    mass = weight.astype(np.float64)
    bad = np.bincount(block, np.where(wrong, mass, 0.0))
    good = np.bincount(block, np.where(wrong, 0.0, mass))
    if not (bad.sum() > 0 and good.sum() > 0):
        return None
    below = np.concatenate([[0.0], np.cumsum(good)[:-1]])
    return float((bad * (below + good / 2.0)).sum() / (bad.sum() * good.sum()))


def aurc(scores: Floats, wrong: Flags, weight: Floats) -> float:
    """Area under the risk–coverage curve: (1/n)·Σₖ (wrong ones among the k easiest) / k, for weight 1.

    Geifman and El-Yaniv 2017, "Selective classification for deep neural networks"; Geifman et al. 2019,
    "Bias-reduced uncertainty estimation". Equal scores have no order: each counts as its block does on average, which
    for equal weights is the expectation over every order. Arguments as in `auroc`.

    Raises:
        ValueError: no rows.
    """
    if len(scores) == 0:
        raise ValueError("a risk needs rows")
    _, block = np.unique(scores, return_inverse=True)
    mass = weight.astype(np.float64)
    loss = np.bincount(block, mass * wrong) / np.bincount(block, mass)
    # By weight within a block, so that the rows' order does not matter.
    order = np.lexsort((mass, block))
    taken = np.cumsum(mass[order])
    risk = np.cumsum(mass[order] * loss[block[order]]) / taken
    return float((mass[order] * risk).sum() / taken[-1])


def reliability(top: Floats, right: Flags, weight: Floats) -> tuple[Bin, ...]:
    """Confidence against accuracy in 15 equal bins of the top probability; empty ones are left out.

    Args:
        top: top probability [n], in 0..1.
        right: [n].
        weight: [n], positive.
    """
    mass = weight.astype(np.float64)
    place = np.minimum((top * BINS).astype(int), BINS - 1)
    found = []
    for index in np.unique(place).tolist():
        inside = place == index
        found.append(
            Bin(
                low=index / BINS,
                high=(index + 1) / BINS,
                confidence=float(np.average(top[inside].astype(np.float64), weights=mass[inside])),
                right=float(np.average(right[inside], weights=mass[inside])),
                share=float(mass[inside].sum() / mass.sum()),
                rows=int(inside.sum()),
            )
        )
    return tuple(found)


def expected_error(bins: tuple[Bin, ...]) -> float:
    """Expected calibration error Σ share·|right − confidence|, in 0..1.

    Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian binning"; Guo et al. 2017, "On
    calibration of modern neural networks".
    """
    return float(sum(part.share * abs(part.right - part.confidence) for part in bins))
