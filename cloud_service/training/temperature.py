"""The temperature that makes probabilities mean what they say: one number, fitted on the negative log-likelihood. Pure.

Guo et al. 2017, "On calibration of modern neural networks". The likelihood is convex in 1/T, hence has one valley in
log T: golden-section search finds its floor without gradients, without torch, and cannot diverge. L-BFGS on the same
likelihood gave the same T to 3 parts in 10,000 (docs/log.md), and ran to 10⁹ where there was no floor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.uncertainty import softmax

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]

# Fewer rows say less of a temperature than the habit of leaving logits as they are.
ENOUGH = 30
_LOG_TEMPERATURE = (-3.0, 3.0)
_GOLDEN_RATIO = (np.sqrt(5.0) - 1.0) / 2.0
_SEARCH_STEPS = 40
# Nearer than this to a bound of the search there is no floor between the bounds.
_AT_BOUND = 1e-3


@dataclass(frozen=True, slots=True)
class Fitted:
    """A temperature, and in `note` why it is 1 where it could not be fitted."""

    temperature: float
    note: str | None = None


def choose_temperature(logits: Floats, answers: Labels, weight: Floats) -> Fitted:
    """`fit_temperature`, or 1 with the reason where the rows cannot tell. Arguments as there."""
    if len(logits) < ENOUGH:
        return Fitted(1.0, f"{len(logits)} samples are too few for a temperature ({ENOUGH} are needed): it stays 1")
    if len(np.unique(answers)) < 2:
        return Fitted(1.0, "the teacher answered every sample alike, which tells no temperature: it stays 1")
    found = fit_temperature(logits, answers, weight)
    low, high = _LOG_TEMPERATURE
    if not low + _AT_BOUND < float(np.log(found)) < high - _AT_BOUND:
        side = "every answer is right" if found < 1 else "the answers have nothing to do with the logits"
        reach = f"{np.exp(low):.2f} to {np.exp(high):.0f}"
        return Fitted(1.0, f"no temperature within {reach} fits best ({side}): it stays 1")
    return Fitted(found)


def fit_temperature(logits: Floats, answers: Labels, weight: Floats) -> float:
    """The T that makes the weighted negative log-likelihood of `answers` smallest, within e^−3..e^3.

    Golden-section search over log T (Kiefer 1953). Where every answer is right the likelihood rises as T falls; the
    lower bound ends that.

    Args:
        logits: [n, C].
        answers: the teacher's classes [n].
        weight: [n].
    """
    low, high = _LOG_TEMPERATURE
    for _ in range(_SEARCH_STEPS):
        span = _GOLDEN_RATIO * (high - low)
        left, right = high - span, low + span
        if _nll(logits, answers, weight, temperature=float(np.exp(left))) <= _nll(
            logits, answers, weight, temperature=float(np.exp(right))
        ):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2.0))


def _nll(logits: Floats, answers: Labels, weight: Floats, *, temperature: float) -> float:
    chosen = softmax(logits, temperature)[np.arange(len(answers)), answers].astype(np.float64)
    losses = -np.log(np.maximum(chosen, 1e-12))
    return float((losses * weight).sum() / weight.sum())
