"""Fits the learned score of `shared.deferral`, and says whether it is worth its place in a manifest.

A logistic regression that tells a row whose teacher would answer otherwise, fitted on the held-out source samples and
the uploads together, every row counting the same; judged on the uploads alone, by cross-validation, weighted to the
stream. On source data alone it is worth nothing, and in domain it can lose to 1 − maximum probability, so it is taken
only where it wins by a margin. Pure: no chance, no clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_service.training import ranking
from shared.deferral import NAMES, features, score
from shared.manifest import Deferral
from shared.uncertainty import max_probability

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]
Flags = NDArray[np.bool_]

# Uploads, and of them wrong and right ones, below which a fit is a guess.
ENOUGH_ROWS, ENOUGH_OF_EACH = 100, 10
MARGIN = 0.04
FOLDS = 5
# Of the penalty ½·Σ w² over standardised features; the intercept is free.
_PENALTY = 1.0
_NEWTON_STEPS = 50
_CONVERGED = 1e-8


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a student's logits whose teacher's answer is known.

    Attributes:
        logits: [n, C]; the uploads' are out of fold.
        answers: the teacher's classes [n].
        weight: [n], how many of the stream each stands for; ones for source samples.
        group: [n] whole numbers ≥ 0: rows of one group are twins and share a fold of the cross-validation.
    """

    logits: Floats
    answers: Labels
    weight: Floats
    group: Labels

    @property
    def wrong(self) -> Flags:
        """Where the student's answer is not the teacher's [n]."""
        return np.asarray(self.logits.argmax(axis=1) != self.answers)


@dataclass(frozen=True, slots=True)
class Learned:
    """What came of it.

    Attributes:
        deferral: the coefficients, fitted on everything; None where the score is not worth it.
        reason: why, or why not, in words.
        auroc: of the learned score on the uploads, each scored by a fit that did not see its fold; None: not fitted.
        baseline: of 1 − maximum probability on the same rows; None where one kind of answer is missing.
        scores: the cross-validated scores of the uploads [n], float32; None where it was not fitted.
    """

    deferral: Deferral | None
    reason: str
    auroc: float | None = None
    baseline: float | None = None
    scores: NDArray[np.float32] | None = None


def learn(field: Rows, source: Rows | None, *, temperature: float, margin: float = MARGIN) -> Learned:
    """Fit the score and hold it against 1 − maximum probability.

    Args:
        field: the uploads, out of fold.
        source: held-out source samples, which are learnt from in every fold and never judged by; None: none.
        temperature: divides the logits.
        margin: of AUROC, by which the learned score must win.
    """
    wrong = field.wrong
    if (lacking := _lacking(wrong, groups=len(np.unique(field.group)))) is not None:
        return Learned(None, lacking)
    baseline = ranking.auroc(max_probability(field.logits, temperature), wrong, field.weight)
    scores = np.empty(len(wrong), dtype=np.float32)
    for train, test in _splits(field.group):
        fitted = fit([_part(field, train), *([source] if source else [])], temperature=temperature)
        scores[test] = score(field.logits[test], temperature, fitted)
    auroc = ranking.auroc(scores, wrong, field.weight)
    assert auroc is not None
    assert baseline is not None
    wins = auroc - baseline >= margin
    said = f"cross-validated AUROC {auroc:.3f} against {baseline:.3f} of maximum probability; {margin:g} more are asked"
    everything = [field, *([source] if source else [])]
    return Learned(
        deferral=fit(everything, temperature=temperature) if wins else None,
        reason=said,
        auroc=auroc,
        baseline=baseline,
        scores=scores,
    )


def fit(parts: list[Rows], *, temperature: float) -> Deferral:
    """The regression over the rows of all parts, unweighted, in the manifest's form.

    Smallest Σ log(1 + exp(−s·(b + w·x))) + ½·‖w‖², s = ±1, over standardised features and the predicted class
    (one of C): McCullagh and Nelder 1989, "Generalized linear models", by Newton's method. The penalty keeps the many
    features that say nearly the same from cancelling each other out in large numbers.
    """
    logits = np.concatenate([part.logits for part in parts])
    wrong = np.concatenate([part.wrong for part in parts])
    table = np.stack(list(features(logits, temperature).values()), axis=1).astype(np.float64)
    usable = np.isfinite(table).all(axis=1)
    table, wrong, predicted = table[usable], wrong[usable], logits[usable].argmax(axis=1)
    middle, spread = table.mean(axis=0), table.std(axis=0)
    moving = spread > 1e-9 * np.maximum(1.0, np.abs(middle))
    scale = np.where(moving, spread, 1.0)
    standard = np.where(moving, (table - middle) / scale, 0.0)
    intercept, weights = logistic(np.hstack([standard, np.eye(logits.shape[1])[predicted]]), wrong)
    own = np.where(moving, weights[: len(NAMES)] / scale, 0.0)
    return Deferral(
        intercept=float(intercept - (own * middle).sum()),
        coefficients=dict(zip(NAMES, own.tolist(), strict=True)),
        classes=tuple(weights[len(NAMES) :].tolist()),
    )


def logistic(x: NDArray[np.float64], positive: Flags) -> tuple[float, NDArray[np.float64]]:
    """Intercept and weights [d] of the penalised logistic regression of `positive` [n] on `x` [n, d].

    The loss is strictly convex in the weights and Newton's step is halved until it descends, so it ends at the minimum.
    """
    design = np.hstack([np.ones((len(x), 1)), x])
    penalty = np.full(design.shape[1], _PENALTY)
    penalty[0] = 0.0
    sign = np.where(positive, 1.0, -1.0)

    def loss(at: NDArray[np.float64]) -> float:
        return float(np.logaddexp(0.0, -sign * (design @ at)).sum() + 0.5 * (penalty * at * at).sum())

    beta = np.zeros(design.shape[1])
    before = loss(beta)
    for _ in range(_NEWTON_STEPS):
        p = 1.0 / (1.0 + np.exp(-np.clip(design @ beta, -500.0, 500.0)))
        gradient = design.T @ (p - positive) + penalty * beta
        # The tiny term keeps the intercept's row solvable where every p is 0 or 1.
        hessian = (design * (p * (1 - p))[:, None]).T @ design + np.diag(penalty + 1e-9)
        step = np.linalg.solve(hessian, gradient)
        while (after := loss(beta - step)) > before and np.abs(step).max() > _CONVERGED:
            step = step / 2.0
        beta = beta - step
        if np.abs(step).max() < _CONVERGED:
            break
        before = after
    return float(beta[0]), beta[1:]


def _lacking(wrong: Flags, *, groups: int) -> str | None:
    bad = int(wrong.sum())
    good = len(wrong) - bad
    if groups >= ENOUGH_ROWS and min(bad, good) >= ENOUGH_OF_EACH:
        return None
    return (
        f"not fitted: {groups} different uploads, {bad} wrong and {good} right; it takes {ENOUGH_ROWS}, "
        f"{ENOUGH_OF_EACH} of each kind"
    )


def _splits(group: Labels) -> Iterator[tuple[Flags, Flags]]:
    """Rows to learn from and rows to judge, whole groups each: group number n is in fold n mod 5.

    Groups are numbered in order of arrival, so every fold spans the whole time.
    """
    fold = np.unique(group, return_inverse=True)[1] % FOLDS
    for number in np.unique(fold):
        yield fold != number, fold == number


def _part(rows: Rows, chosen: Flags) -> Rows:
    return Rows(rows.logits[chosen], rows.answers[chosen], rows.weight[chosen], rows.group[chosen])
