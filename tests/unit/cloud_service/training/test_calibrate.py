import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from cloud_service.errors import ModelError
from cloud_service.training.calibrate import BUDGETS, Calibration, calibrate, fit_temperature
from cloud_service.training.deferring import Rows, learn
from shared import deferral
from shared.uncertainty import Score, hardness


def scored(count=2000, *, sharpness=1.0, seed=0):
    """Logits whose softmax at T = sharpness is the true distribution of the answers."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 2, (count, 5))
    p = np.exp(true) / np.exp(true).sum(1, keepdims=True)
    answers = np.array([rng.choice(5, p=row) for row in p])
    return (true * sharpness).astype(np.float32), answers, np.ones(count, dtype=np.float32)


def chosen(logits, answers, weight, *, goal=0.9, budget=1.0):
    return calibrate(logits, answers, weight, agreement_goal=goal, offload_budget=budget, score=Score.MAX_PROBABILITY)


@pytest.mark.parametrize("sharpness", [0.25, 1.0, 4.0])
def test_temperature_undoes_over_and_underconfidence(sharpness):
    assert fit_temperature(*scored(sharpness=sharpness)) == pytest.approx(sharpness, rel=0.1)


def test_temperature_counts_weights():
    logits, answers, weight = scored(400)
    weight[:200] = 3.0
    repeated = [np.concatenate([part[:200], part[:200], part]) for part in (logits, answers, np.ones_like(weight))]
    assert fit_temperature(logits, answers, weight) == pytest.approx(fit_temperature(*repeated), rel=1e-3)


def test_temperature_of_a_perfect_student_stays_bounded():
    logits = np.eye(3, dtype=np.float32)
    assert 0.04 < fit_temperature(logits, np.arange(3), np.ones(3)) < 0.06


def test_threshold_is_the_smallest_offload_that_reaches_the_goal():
    logits, answers, weight = scored()
    result = chosen(logits, answers, weight, goal=0.95)
    assert result.goal_met
    assert result.agreement >= 0.95
    hard = hardness(logits, result.temperature) >= result.threshold
    assert hard.mean() == pytest.approx(result.offload_rate)
    right = (logits.argmax(1) == answers) | hard
    assert right.mean() == pytest.approx(result.agreement)
    # One sample less would miss it.
    assert result.agreement - 1 / len(logits) < 0.95


def test_budget_binds_and_the_goal_is_reported_unmet():
    result = chosen(*scored(), goal=0.999, budget=0.1)
    assert result.offload_rate == pytest.approx(0.1)
    assert not result.goal_met
    assert result.goal_would_need > 0.5


def test_floor_holds_where_the_goal_needs_less():
    logits, answers, weight = scored()
    result = calibrate(
        logits, answers, weight, agreement_goal=0.0, offload_floor=0.25, offload_budget=0.25, score=Score.MARGIN
    )
    assert result.offload_rate == pytest.approx(0.25)
    assert result.goal_would_need == 0.0


def test_goal_met_by_the_student_alone_offloads_nothing():
    logits = np.eye(4, dtype=np.float32) * 9
    result = chosen(logits, np.arange(4), np.ones(4), goal=1.0)
    assert result.offload_rate == 0.0
    assert (hardness(logits, result.temperature) < result.threshold).all()


def test_audits_stand_for_those_that_were_kept():
    # Two hard uploads of weight 1, one confident audit of weight 18: the hard ones are a tenth of the stream.
    logits = np.array([[0.1, 0.0], [0.2, 0.0], [9.0, 0.0]], dtype=np.float32)
    result = chosen(logits, np.array([1, 1, 0]), np.array([1.0, 1.0, 18.0]), goal=1.0)
    assert result.offload_rate == pytest.approx(0.1)
    assert result.student_agreement == pytest.approx(0.9)


def test_equal_scores_stay_within_the_budget():
    logits = np.zeros((10, 3), dtype=np.float32)
    result = chosen(logits, np.ones(10, dtype=np.int64), np.ones(10), goal=1.0, budget=0.5)
    assert result.offload_rate == 0.0
    assert not result.goal_met


def test_everything_may_be_offloaded():
    logits = np.array([[1.0, 0.0], [3.0, 0.0]], dtype=np.float32)
    result = chosen(logits, np.array([1, 1]), np.ones(2), goal=1.0)
    assert result.offload_rate == 1.0
    assert result.agreement == 1.0


def test_no_samples_is_a_mistake():
    with pytest.raises(ValueError, match="needs samples"):
        chosen(np.zeros((0, 3), np.float32), np.zeros(0, np.int64), np.zeros(0))


def by_class(count=300, *, seed=0):
    """Errs by class: the learned score tells, maximum probability does not."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1, (count, 4)).astype(np.float32)
    predicted = logits.argmax(1)
    wrong = rng.random(count) < np.where(predicted < 2, 0.85, 0.05)
    return logits, np.where(wrong, (predicted + 1) % 4, predicted), rng.choice([1.0, 4.0], count)


SOURCE = (np.eye(4, dtype=np.float32).repeat(5, 0) * 6, np.arange(4).repeat(5))


def test_each_budget_has_its_threshold_and_keeps_to_it():
    logits, answers, weight = scored()
    result = chosen(logits, answers, weight)
    assert tuple(point.budget for point in result.budgets) == BUDGETS
    for point in result.budgets:
        hard = hardness(logits, result.temperature) >= point.threshold
        assert hard.mean() == pytest.approx(point.offload_rate)
        assert point.budget - 1 / len(logits) < point.offload_rate <= point.budget + 1e-9
        assert ((logits.argmax(1) == answers) | hard).mean() == pytest.approx(point.agreement)


def test_every_score_is_ranked():
    result = chosen(*scored())
    assert set(result.rankings) == {"max_probability", "margin", "entropy", "energy"}
    best = result.rankings["max_probability"]
    assert best.auroc > 0.7
    assert best.aurc < 1 - result.student_agreement


def test_temperature_mends_the_calibration_error():
    result = chosen(*scored(sharpness=4.0))
    assert result.calibration_error < 0.5 * result.uncalibrated_error
    assert sum(part.share for part in result.reliability) == pytest.approx(1.0)


def test_learned_score_that_wins_goes_into_the_manifest_with_its_threshold():
    logits, answers, weight = by_class()
    result = calibrate(
        logits, answers, weight, agreement_goal=1.0, offload_budget=0.4, score=Score.MAX_PROBABILITY, source=SOURCE
    )
    assert result.score is Score.DEFERRAL
    assert set(result.rankings) == {"max_probability", "margin", "entropy", "energy", "deferral"}
    assert result.rankings["deferral"].auroc > result.rankings["max_probability"].auroc + 0.04
    # The threshold is of scores by fits that did not see the row …
    home = Rows(*SOURCE, np.ones(len(SOURCE[1])), np.arange(len(SOURCE[1])))
    unseen = learn(Rows(logits, answers, weight, np.arange(300)), home, temperature=result.temperature).scores
    assert np.average(unseen >= result.threshold, weights=weight) == pytest.approx(result.offload_rate, abs=1e-6)
    # … and the device's scores, by a fit on everything, are about the same.
    hard = deferral.score(logits, result.temperature, result.deferral) >= result.threshold
    assert np.average(hard, weights=weight) == pytest.approx(result.offload_rate, abs=0.05)
    plain = calibrate(
        logits, answers, weight, agreement_goal=1.0, offload_budget=0.4, score=Score.MAX_PROBABILITY, source=None
    )
    assert result.agreement > plain.agreement + 0.1


def test_learned_score_that_does_not_win_leaves_the_asked_for_score():
    logits, answers, weight = scored(300)
    result = calibrate(
        logits, answers, weight, agreement_goal=0.9, offload_budget=1.0, score=Score.MARGIN, source=(logits, answers)
    )
    assert result.score is Score.MARGIN
    assert result.deferral is None
    assert "against" in result.deferral_reason


def test_without_source_rows_nothing_is_learnt():
    assert "no uploads out of fold" in chosen(*by_class()).deferral_reason


def test_spread_is_in_log_odds_as_the_device_counts():
    logits, answers, weight = scored(400)
    result = chosen(logits, answers, weight)
    hard = hardness(logits, result.temperature).astype(float)
    units = np.log(hard / (1 - hard))
    spread = result.spread
    assert (spread.mean, spread.deviation) == (pytest.approx(units.mean()), pytest.approx(units.std()))
    assert (spread.low, spread.high) == (pytest.approx(units.min()), pytest.approx(units.max()))


def test_spread_of_energy_is_energy_as_it_is():
    logits, answers, weight = scored(400)
    result = calibrate(logits, answers, weight, agreement_goal=0.9, offload_budget=0.2, score=Score.ENERGY)
    assert result.spread.mean == pytest.approx(hardness(logits, result.temperature, Score.ENERGY).mean(), rel=1e-5)
    assert result.offload_rate == pytest.approx(0.2, abs=1 / 400)


def test_energies_above_one_may_all_be_kept():
    logits = np.array([[-5.0, -9.0], [-6.0, -9.0]], dtype=np.float32)
    result = calibrate(
        logits, np.zeros(2, np.int64), np.ones(2), agreement_goal=0.0, offload_budget=0.0, score=Score.ENERGY
    )
    assert result.offload_rate == 0.0
    assert (hardness(logits, 1.0, Score.ENERGY) < result.threshold).all()


def test_few_samples_are_calibrated_with_a_word():
    result = chosen(*scored(20, sharpness=4.0))
    assert result.temperature == 1.0
    assert "20 samples are too few" in result.notes[0]


@pytest.mark.parametrize(("shift", "said"), [(0, "none is wrong"), (1, "every one is wrong")])
def test_answers_of_one_kind_rank_no_score_and_say_so(shift, said):
    logits = np.tile(np.eye(4, dtype=np.float32) * 5, (10, 1))
    result = chosen(logits, (logits.argmax(1) + shift) % 4, np.ones(40))
    assert result.rankings["margin"].auroc is None
    assert any(said in note for note in result.notes)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_name_the_remedy(value):
    logits, answers, weight = scored(50)
    logits[3, 1] = value
    with pytest.raises(ModelError, match=r"not finite for 1 of 50 held-out samples.*lower training\.learning_rate"):
        chosen(logits, answers, weight)
    good, answers, weight = scored(50)
    with pytest.raises(ModelError, match="1 of 100"):
        calibrate(
            good, answers, weight, agreement_goal=0.9, offload_budget=1.0, score=Score.MARGIN,
            source=(logits, answers),
        )  # fmt: skip


def test_effective_rows_are_those_of_kish():
    logits, answers, _ = scored(4)
    assert chosen(logits, answers, np.array([1.0, 1.0, 1.0, 3.0])).effective_rows == pytest.approx(36 / 12)


def test_calibration_survives_its_file():
    logits, answers, weight = by_class()
    result = calibrate(
        logits, answers, weight, agreement_goal=1.0, offload_budget=0.4, score=Score.MAX_PROBABILITY, source=SOURCE
    )
    text = TypeAdapter(Calibration).dump_json(result)
    assert TypeAdapter(Calibration).validate_json(text) == result
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 40),
    budget=st.floats(0, 1),
    goal=st.floats(0, 1),
    seed=st.integers(0, 1000),
    rounding=st.booleans(),
)
def test_expectations_are_what_the_threshold_does(count, budget, goal, seed, rounding):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, 3)).astype(np.float32)
    logits = logits.round() if rounding else logits
    answers, weight = rng.integers(0, 3, count), rng.choice([1.0, 20.0], count)
    result = chosen(logits, answers, weight, goal=goal, budget=budget)
    hard = hardness(logits, result.temperature) >= result.threshold
    assert np.average(hard, weights=weight) == pytest.approx(result.offload_rate, abs=1e-6)
    assert result.offload_rate <= budget + 1e-6
    right = hard | (logits.argmax(1) == answers)
    assert np.average(right, weights=weight) == pytest.approx(result.agreement, abs=1e-6)
    assert result.goal_met == (result.agreement >= goal - 1e-6) or abs(result.agreement - goal) < 1e-5
