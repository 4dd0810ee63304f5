"""Temperature and threshold from weighted scores: pure functions of logits, the teacher's answers and the weights.

The logits come from samples that the scoring student did not train on, the weights are 1 / probability that such a
sample was sent, so sums over them estimate sums over everything the devices saw (Horvitz and Thompson 1952).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.uncertainty import Score, hardness, softmax

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]

# A one-dimensional convex problem: a bracketing search needs no gradients and cannot diverge.
_LOG_TEMPERATURE = (-3.0, 3.0)
_GOLDEN_RATIO = (np.sqrt(5.0) - 1.0) / 2.0
_SEARCH_STEPS = 40


@dataclass(frozen=True, slots=True)
class Calibration:
    """What rides in the manifest, and what it should bring.

    Attributes:
        temperature: divides the logits.
        threshold: a sample is hard when its hardness is at or above it.
        offload_rate: expected fraction of samples that are hard.
        agreement: expected fraction of final answers (own or the verdict) equal to the teacher's.
        student_agreement: the same of the student alone.
        goal_met: whether `agreement` reaches the goal within the budget.
        goal_would_need: expected fraction that would have to be offloaded to reach the goal.
    """

    temperature: float
    threshold: float
    offload_rate: float
    agreement: float
    student_agreement: float
    goal_met: bool
    goal_would_need: float


def calibrate(
    logits: Floats,
    answers: Labels,
    weight: Floats,
    *,
    agreement_goal: float,
    offload_budget: float,
    score: Score,
    offload_floor: float = 0.0,
) -> Calibration:
    """The temperature, then the smallest offload that reaches the goal, between the floor and the budget.

    Args:
        logits: [n, C], out of fold.
        answers: the teacher's classes [n].
        weight: 1 / inclusion probability [n].
        agreement_goal: wanted share of final answers equal to the teacher's.
        offload_budget: largest expected share of samples offloaded.
        score: which hardness.
        offload_floor: smallest expected share of samples offloaded, as far as the budget allows.

    Raises:
        ValueError: no samples.
    """
    if len(logits) == 0:
        raise ValueError("calibration needs samples")
    temperature = fit_temperature(logits, answers, weight)
    hard = hardness(logits, temperature, score)
    order = np.argsort(-hard, kind="stable")
    share = weight[order].astype(np.float64) / weight.sum(dtype=np.float64)
    wrong = logits.argmax(axis=1)[order] != answers[order]
    # Entry k: what offloading the k hardest costs and leaves wrong.
    offload = np.concatenate([[0.0], np.cumsum(share)])
    left = np.concatenate([[0.0], np.cumsum((share * wrong)[::-1])])[::-1]
    needed = int(np.argmax(left <= 1.0 - agreement_goal + 1e-9))
    affordable = int(np.searchsorted(offload, offload_budget + 1e-9, side="right")) - 1
    floor = int(np.searchsorted(offload, offload_floor - 1e-9))
    chosen = min(max(needed, floor), affordable)
    threshold = _between(hard[order], chosen)
    taken = int((hard >= threshold).sum())  # equal scores go together
    return Calibration(
        temperature=temperature,
        threshold=threshold,
        offload_rate=float(offload[taken]),
        agreement=float(1.0 - left[taken]),
        student_agreement=float(1.0 - left[0]),
        goal_met=bool(left[taken] <= 1.0 - agreement_goal + 1e-9),
        goal_would_need=float(offload[needed]),
    )


def fit_temperature(logits: Floats, answers: Labels, weight: Floats) -> float:
    """The T that makes the weighted negative log-likelihood of `answers` smallest, within e^−3..e^3.

    Golden-section search over log T (Kiefer 1953). Where every answer is right the likelihood rises as T falls; the
    lower bound ends that.
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
