import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_service.training.calibrate import calibrate, fit_temperature
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
