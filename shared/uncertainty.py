"""Uncertainty scores over logits: pure functions that both sides use, so that a threshold means the same on each.

Every function takes float logits of shape [..., C], C classes on the last axis, and returns float32 scores of shape
[...]; higher means harder. What usually raises or spreads NaN is defined instead:

* a NaN or +inf logit, or a row of only -inf: the hardest score, 1.0 (`energy`: +inf);
* one class: 0.0, there is nothing to be unsure of;
* no class at all (C = 0): the hardest score;
* a probability of zero: p·log p is 0, its limit.

Temperature divides the logits before the softmax (Guo et al. 2017, "On calibration of modern neural networks").
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float32]


class Score(StrEnum):
    """Which score makes a sample hard; `deferral` is learned (see `shared.deferral`), the others are functions here."""

    MAX_PROBABILITY = "max_probability"
    MARGIN = "margin"
    ENTROPY = "entropy"
    ENERGY = "energy"
    DEFERRAL = "deferral"


def divided(logits: ArrayLike, temperature: float) -> FloatArray:
    """Logits over temperature, float32 of their shape; what float32 cannot hold is infinite.

    Raises:
        ValueError: `temperature` is not a positive finite number.
    """
    # What float32 cannot hold becomes infinite, and with it the hardest score; a warning would add nothing.
    with np.errstate(over="ignore"):
        divisor = np.float32(temperature)
        if not (divisor > 0 and np.isfinite(divisor)):
            raise ValueError(f"temperature must be positive and finite in float32, got {temperature}")
        return np.asarray(logits, dtype=np.float32) / divisor


def softmax(logits: ArrayLike, temperature: float = 1.0) -> FloatArray:
    """Probabilities exp(z/T) / Σ exp(z/T) over the last axis; a row that is not finite becomes NaN.

    Raises:
        ValueError: `temperature` is not a positive finite number.
    """
    scaled = divided(logits, temperature)
    if scaled.shape[-1] == 0:
        return scaled
    with np.errstate(invalid="ignore", over="ignore"):
        powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True), dtype=np.float32)


def max_probability(logits: ArrayLike, temperature: float = 1.0) -> FloatArray:
    """1 − max p, in [0, 1 − 1/C]."""
    probabilities = softmax(logits, temperature)
    if probabilities.shape[-1] == 0:
        return _hardest(probabilities)
    return _nan_is(1.0, np.float32(1.0) - probabilities.max(axis=-1))


def margin(logits: ArrayLike, temperature: float = 1.0) -> FloatArray:
    """1 − (p₁ − p₂), the two most probable classes, in [0, 1]."""
    probabilities = softmax(logits, temperature)
    classes = probabilities.shape[-1]
    if classes == 0:
        return _hardest(probabilities)
    if classes == 1:
        return _nan_is(1.0, np.float32(1.0) - probabilities[..., 0])
    top = np.partition(probabilities, classes - 2, axis=-1)
    return _nan_is(1.0, np.float32(1.0) - (top[..., -1] - top[..., -2]))


def entropy(logits: ArrayLike, temperature: float = 1.0) -> FloatArray:
    """Shannon entropy −Σ p·log p over log C, in [0, 1]."""
    probabilities = softmax(logits, temperature)
    classes = probabilities.shape[-1]
    if classes == 0:
        return _hardest(probabilities)
    logs = np.log(np.where(probabilities > 0, probabilities, 1.0))
    total = -(probabilities * logs).sum(axis=-1)
    return _nan_is(1.0, np.clip(total / np.log(max(classes, 2)), 0.0, 1.0))


def energy(logits: ArrayLike, temperature: float = 1.0) -> FloatArray:
    """Free energy −T·log Σ exp(z/T), unbounded (Liu et al. 2020, "Energy-based out-of-distribution detection")."""
    scaled = divided(logits, temperature)
    if scaled.shape[-1] == 0:
        return np.full(scaled.shape[:-1], np.inf, dtype=np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        highest = scaled.max(axis=-1, keepdims=True)
        total = np.log(np.exp(scaled - highest).sum(axis=-1)) + highest[..., 0]
        return _nan_is(np.inf, np.float32(-temperature) * total)


_FUNCTIONS = {
    Score.MAX_PROBABILITY: max_probability,
    Score.MARGIN: margin,
    Score.ENTROPY: entropy,
    Score.ENERGY: energy,
}


def hardness(logits: ArrayLike, temperature: float = 1.0, score: Score = Score.MAX_PROBABILITY) -> FloatArray:
    """The chosen score of each row of `logits`, float32 of shape [...]; see the module for the edge cases.

    Raises:
        ValueError: `score` is the learned one, which needs coefficients; or `temperature` is impossible.
    """
    function = _FUNCTIONS.get(score)
    if function is None:
        raise ValueError(f"the score {score} needs a manifest's coefficients: use shared.deferral.score")
    return function(logits, temperature)


def _hardest(probabilities: FloatArray) -> FloatArray:
    return np.ones(probabilities.shape[:-1], dtype=np.float32)


def _nan_is(value: float, scores: NDArray[np.floating]) -> FloatArray:
    return np.where(np.isnan(scores), np.float32(value), scores).astype(np.float32)
