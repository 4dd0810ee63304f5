"""From scores to thresholds: temperature, the choice of the score, and what each budget would bring. Pure.

The logits come from samples that the scoring student did not train on, the weights are 1 / probability that such a
sample was sent, so sums over them estimate sums over everything the devices saw (Horvitz and Thompson 1952).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_service.errors import ModelError
from cloud_service.training import ranking
from cloud_service.training.deferring import Learned, Rows, learn
from cloud_service.training.operating import Curve, Point
from cloud_service.training.ranking import Bin, Ranking
from cloud_service.training.temperature import choose_temperature, fit_temperature
from shared.manifest import Deferral, ScoreSpread
from shared.uncertainty import Score, hardness, softmax

__all__ = ["BUDGETS", "Calibration", "calibrate", "fit_temperature"]

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]

BUDGETS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
_PLAIN = (Score.MAX_PROBABILITY, Score.MARGIN, Score.ENTROPY, Score.ENERGY)
# As the device keeps them: log-odds have no end where a score is 0 or 1, and no steps where all scores are one.
_NEAREST, _SMALLEST_DEVIATION = 1e-7, 1e-3


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
        score: which hardness the threshold is of.
        deferral: the learned score's coefficients, where `score` is that one.
        deferral_reason: why the learned score was taken, or not.
        spread: of the chosen score, as the device's controller counts it.
        budgets: the thresholds that spend a grid of budgets.
        rankings: by score, how well it tells wrong answers from right ones; `deferral` cross-validated, if fitted.
        reliability: confidence against accuracy at the temperature.
        calibration_error: expected calibration error at the temperature.
        uncalibrated_error: the same at temperature 1.
        rows: samples that all this rests on.
        effective_rows: so many equally weighted samples would say as much (Kish 1965).
        notes: what could not be done as asked, in words.
    """

    temperature: float
    threshold: float
    offload_rate: float
    agreement: float
    student_agreement: float
    goal_met: bool
    goal_would_need: float
    score: Score = Score.MAX_PROBABILITY
    deferral: Deferral | None = None
    deferral_reason: str = ""
    spread: ScoreSpread | None = None
    budgets: tuple[Point, ...] = ()
    rankings: dict[str, Ranking] = field(default_factory=dict)
    reliability: tuple[Bin, ...] = ()
    calibration_error: float = 0.0
    uncalibrated_error: float = 0.0
    rows: int = 0
    effective_rows: float = 0.0
    notes: tuple[str, ...] = ()


def calibrate(
    logits: Floats,
    answers: Labels,
    weight: Floats,
    *,
    agreement_goal: float,
    offload_budget: float,
    score: Score,
    offload_floor: float = 0.0,
    budgets: Sequence[float] = BUDGETS,
    source: tuple[Floats, Labels] | None = None,
    group: Labels | None = None,
) -> Calibration:
    """The temperature, then the score, then the smallest offload that reaches the goal, between floor and budget.

    Args:
        logits: [n, C], out of fold.
        answers: the teacher's classes [n].
        weight: 1 / inclusion probability [n].
        agreement_goal: wanted share of final answers equal to the teacher's.
        offload_budget: largest expected share of samples offloaded.
        score: which hardness, where the learned one is not better by a margin.
        offload_floor: smallest expected share of samples offloaded, as far as the budget allows.
        budgets: for which further thresholds are given.
        source: logits of held-out source samples and the teacher's answers to them; with them the learned score is
            tried, None: it is not.
        group: [n], equal for twins, which share a fold of the learned score's cross-validation; None: there are none.

    Raises:
        ValueError: no samples.
        ModelError: a logit is not finite.
    """
    if len(logits) == 0:
        raise ValueError("calibration needs samples")
    _check_finite(logits, *(source[:1] if source else ()))
    fitted = choose_temperature(logits, answers, weight)
    rows = Rows(logits, answers, weight, np.arange(len(logits)) if group is None else group)
    learned = _learn(rows, source, temperature=fitted.temperature)
    chosen, hard = _score(rows, learned, temperature=fitted.temperature, otherwise=score)
    curve = Curve(hard, rows.wrong, weight)
    point = curve.reaching(agreement_goal, floor=offload_floor, budget=offload_budget)
    bins = _reliability(rows, temperature=fitted.temperature)
    return Calibration(
        temperature=fitted.temperature,
        threshold=point.threshold,
        offload_rate=point.offload_rate,
        agreement=point.agreement,
        student_agreement=curve.alone,
        goal_met=point.agreement >= agreement_goal - 1e-9,
        goal_would_need=curve.would_need(agreement_goal),
        score=chosen,
        deferral=learned.deferral,
        deferral_reason=learned.reason,
        spread=_spread(hard, weight, score=chosen),
        budgets=tuple(curve.at_budget(budget) for budget in budgets),
        rankings=_rankings(rows, learned, temperature=fitted.temperature),
        reliability=bins,
        calibration_error=ranking.expected_error(bins),
        uncalibrated_error=ranking.expected_error(_reliability(rows, temperature=1.0)),
        rows=len(logits),
        effective_rows=_effective(weight),
        notes=_notes(fitted.note, rows),
    )


def _check_finite(*parts: Floats) -> None:
    broken = [int((~np.isfinite(part)).any(axis=1).sum()) for part in parts]
    if sum(broken):
        raise ModelError(
            f"the student's logits are not finite for {sum(broken)} of {sum(map(len, parts))} held-out samples: "
            "its training diverged, lower training.learning_rate"
        )


def _learn(rows: Rows, source: tuple[Floats, Labels] | None, *, temperature: float) -> Learned:
    if source is None:
        return Learned(None, "not fitted: there are no uploads out of fold to fit it on")
    logits, answers = source
    home = Rows(logits, answers, np.ones(len(logits)), np.arange(len(logits)))
    return learn(rows, home if len(logits) else None, temperature=temperature)


def _score(rows: Rows, learned: Learned, *, temperature: float, otherwise: Score) -> tuple[Score, NDArray[np.float32]]:
    """The learned score where it was taken, and its values; else the other."""
    if learned.deferral is None or learned.scores is None:
        return otherwise, hardness(rows.logits, temperature, otherwise)
    return Score.DEFERRAL, learned.scores


def _rankings(rows: Rows, learned: Learned, *, temperature: float) -> dict[str, Ranking]:
    scores: dict[str, NDArray[np.float32]] = {
        score.value: hardness(rows.logits, temperature, score) for score in _PLAIN
    }
    if learned.scores is not None:
        scores[Score.DEFERRAL.value] = learned.scores
    return {name: ranking.rank(values, rows.wrong, rows.weight) for name, values in scores.items()}


def _reliability(rows: Rows, *, temperature: float) -> tuple[Bin, ...]:
    return ranking.reliability(softmax(rows.logits, temperature).max(axis=1), ~rows.wrong, rows.weight)


def _spread(hard: NDArray[np.float32], weight: Floats, *, score: Score) -> ScoreSpread:
    units = hard.astype(np.float64)
    if score is not Score.ENERGY:
        bounded = np.clip(units, _NEAREST, 1.0 - _NEAREST)
        units = np.log(bounded / (1.0 - bounded))
    mean = float(np.average(units, weights=weight))
    deviation = float(np.sqrt(np.average((units - mean) ** 2, weights=weight)))
    return ScoreSpread(
        mean=mean, deviation=max(deviation, _SMALLEST_DEVIATION), low=float(units.min()), high=float(units.max())
    )


def _effective(weight: Floats) -> float:
    mass = weight.astype(np.float64)
    return float(mass.sum() ** 2 / (mass * mass).sum())


def _notes(temperature: str | None, rows: Rows) -> tuple[str, ...]:
    notes = [temperature] if temperature else []
    bad = int(rows.wrong.sum())
    if bad in {0, len(rows.wrong)}:
        kind = "none" if bad == 0 else "every one"
        notes.append(f"of {len(rows.wrong)} held-out answers {kind} is wrong: no score can be ranked (AUROC)")
    return tuple(notes)
