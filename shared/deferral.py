"""The learned score: how probable it is that the teacher would answer otherwise, told from the edge's logits alone.

A logistic regression over a dozen features of one row of logits, all after temperature. Both sides use it: the cloud
fits the coefficients on rows whose verdict it knows, the device applies them, so that a threshold means the same on
each. Fitted on source data alone it is worth nothing; it pays on a shifted field with 100 or more answered samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shared.uncertainty import FloatArray, divided

NAMES = (
    "max_probability",
    "margin",
    "entropy",
    "gini",
    "energy",
    "log_odds",
    "first_logit",
    "second_logit",
    "logit_gap",
    "logit_mean",
    "logit_deviation",
    "rivals",
)

# Beyond this a feature says no more than it does here, and nothing that is computed from it overflows.
_LARGEST = 1e6
# The log-odds of a probability that float32 cannot tell from 0 or 1.
_LARGEST_ODDS = 16.0


class Coefficients(Protocol):
    """What `score` needs of a manifest's deferral, which says what each part means."""

    @property
    def intercept(self) -> float: ...
    @property
    def coefficients(self) -> Mapping[str, float]: ...
    @property
    def classes(self) -> Sequence[float]: ...


def features(logits: ArrayLike, temperature: float = 1.0) -> dict[str, FloatArray]:
    """Every feature of each row of `logits` [..., C], float32 [...] within ± 10⁶, by its name, in the order of `NAMES`.

    max_probability, margin, entropy: the scores of `shared.uncertainty` · gini: 1 − Σ p² · energy: −log Σ exp(z/T) ·
    log_odds: of the most probable class being wrong, within ± 16 · first_logit, second_logit, logit_gap: the two
    highest z/T and their difference · logit_mean, logit_deviation: of z/T over the classes · rivals: log of how many
    classes as strong as the second would stand behind the first.

    NaN in a row that is not finite, before or after temperature, and with fewer than two classes: nothing to tell from.

    Raises:
        ValueError: `temperature` is not a positive finite number.
    """
    scaled = divided(logits, temperature)
    table = np.where(_usable(scaled), _table(scaled), np.float32(np.nan))
    return dict(zip(NAMES, table, strict=True))


def score(logits: ArrayLike, temperature: float, deferral: Coefficients) -> FloatArray:
    """P(the teacher answers otherwise) of each row of `logits` [..., C], float32 [...] in [0, 1]; higher is harder.

    A row that is not finite, before or after temperature, is as hard as can be: 1. One class alone: 0, there is nothing
    to be unsure of. No class at all: 1.

    Raises:
        ValueError: a feature of no such name, another number of classes than labels, or an impossible temperature.
    """
    check_names(deferral.coefficients)
    scaled = divided(logits, temperature)
    classes = scaled.shape[-1]
    if deferral.classes and len(deferral.classes) != classes:
        raise ValueError(f"{len(deferral.classes)} coefficients of classes for {classes} classes")
    usable = _usable(scaled)
    if classes < 2:
        return np.where(usable & (classes == 1), np.float32(0.0), np.float32(1.0))
    weights = np.array([deferral.coefficients.get(name, 0.0) for name in NAMES])
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.add.reduce(_table(scaled).T * weights, axis=-1).T + deferral.intercept
        if deferral.classes:
            total = total + np.asarray(deferral.classes)[np.where(usable, scaled.argmax(axis=-1), 0)]
        scores = 1.0 / (1.0 + np.exp(-total))
    return np.where(usable & ~np.isnan(scores), scores, 1.0).astype(np.float32)


def check_names(names: Mapping[str, float]) -> None:
    """Hold coefficients against the features there are.

    Raises:
        ValueError: one has the name of none.
    """
    unknown = names.keys() - set(NAMES)
    if unknown:
        raise ValueError(f"there is no feature {min(unknown)!r}; there are {', '.join(NAMES)}")


def _usable(scaled: FloatArray) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(scaled).all(axis=-1))


def _table(scaled: FloatArray) -> FloatArray:
    """Every feature [12, ...] in the order of `NAMES`; NaN or any number where a row is not usable."""
    if scaled.shape[-1] < 2:
        return np.full((len(NAMES), *scaled.shape[:-1]), np.nan, dtype=np.float32)
    # In float64 nothing that float32 could hold overflows on the way.
    logits = scaled.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        ordered = np.sort(logits, axis=-1)
        first, second = ordered[..., -1], ordered[..., -2]
        # The others are summed apart from the first, so that a sure answer's odds are not lost in rounding.
        others = np.log(np.exp(ordered[..., :-1] - second[..., None]).sum(axis=-1)) + second
        everything = np.logaddexp(first, others)
        probabilities = np.exp(logits - everything[..., None])
        unsure = 1.0 - np.exp(first - everything)
        log_odds = np.minimum(np.maximum(others - first, -_LARGEST_ODDS), _LARGEST_ODDS)
        # p·log p is 0 where p is, its limit: log p is finite there.
        entropy = (probabilities * (everything[..., None] - logits)).sum(axis=-1) / np.log(logits.shape[-1])
        table = np.array(
            [
                unsure,
                unsure + np.exp(second - everything),
                entropy,
                1.0 - (probabilities * probabilities).sum(axis=-1),
                -everything,
                log_odds,
                first,
                second,
                first - second,
                logits.mean(axis=-1),
                logits.std(axis=-1),
                others - second,
            ]
        )
        return np.asarray(np.minimum(np.maximum(table, -_LARGEST), _LARGEST), dtype=np.float32)
