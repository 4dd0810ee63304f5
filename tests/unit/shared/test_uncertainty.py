import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from shared.uncertainty import Score, divided, energy, entropy, hardness, margin, max_probability, softmax

BOUNDED = (Score.MAX_PROBABILITY, Score.MARGIN, Score.ENTROPY)
EVERY = (*BOUNDED, Score.ENERGY)  # the learned one has functions of its own

ordinary = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(2, 12)),
    elements=st.floats(-50, 50, width=32),
)
anything = arrays.arrays(
    np.float64,
    arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5),
    elements=st.floats(allow_nan=True, allow_infinity=True),
)
temperatures = st.floats(0.05, 20.0)
quick = settings(deadline=None, max_examples=150)


def reference(score: Score, row: list[float], temperature: float) -> float:
    """The textbook formulas in float64, written without numpy and without sharing a line with the module."""
    scaled = [value / temperature for value in row]
    top = max(scaled)
    total = math.fsum(math.exp(value - top) for value in scaled)
    p = sorted((math.exp(value - top) / total for value in scaled), reverse=True)
    match score:
        case Score.MAX_PROBABILITY:
            return 1 - p[0]
        case Score.MARGIN:
            return 1 - (p[0] - p[1])
        case Score.ENTROPY:
            return -math.fsum(x * math.log(x) for x in p if x > 0) / math.log(len(p))
        case Score.ENERGY:
            return -temperature * (top + math.log(total))


@quick
@given(ordinary, temperatures, st.sampled_from(EVERY))
def test_score_agrees_with_the_formula_in_float64(logits, temperature, score):
    expected = [reference(score, [float(x) for x in row], temperature) for row in logits]
    assert hardness(logits, temperature, score) == pytest.approx(expected, abs=2e-5, rel=2e-5)


@quick
@given(ordinary, temperatures)
def test_softmax_is_a_distribution_in_the_order_of_the_logits(logits, temperature):
    p = softmax(logits, temperature)
    assert p.dtype == np.float32
    assert p.sum(axis=-1) == pytest.approx(np.ones(len(p)), abs=1e-5)
    assert (p >= 0).all()
    best = logits.argmax(axis=-1)
    assert np.take_along_axis(p, best[:, None], axis=-1)[:, 0] == pytest.approx(p.max(axis=-1))


@quick
@given(anything, st.sampled_from(EVERY), st.floats(1e-3, 1e3))
@example(np.array([1e300, -1e300]), Score.MAX_PROBABILITY, 1.0)
@example(np.array([3e38, 1.0]), Score.ENERGY, 1e-3)
def test_score_of_any_numbers_has_a_value_and_no_warning(logits, score, temperature):
    scores = hardness(logits, temperature, score)
    assert scores.shape == logits.shape[:-1]
    assert scores.dtype == np.float32
    assert not np.isnan(scores).any()
    if score in BOUNDED:
        assert ((scores >= 0) & (scores <= 1)).all()


@quick
@given(ordinary)
def test_max_probability_stays_below_one_minus_one_over_c(logits):
    assert (max_probability(logits) <= 1 - 1 / logits.shape[-1] + 1e-6).all()


@quick
@given(ordinary, temperatures, st.sampled_from(EVERY), st.randoms(use_true_random=False))
def test_score_does_not_depend_on_the_order_of_classes(logits, temperature, score, random):
    order = list(range(logits.shape[-1]))
    random.shuffle(order)
    shuffled = hardness(logits[:, order], temperature, score)
    assert shuffled == pytest.approx(hardness(logits, temperature, score), abs=1e-5, rel=1e-5)


@quick
@given(ordinary, st.floats(-20, 20, width=32), st.sampled_from(BOUNDED))
def test_adding_a_constant_to_the_logits_changes_no_bounded_score(logits, constant, score):
    assert hardness(logits + np.float32(constant), 1.0, score) == pytest.approx(hardness(logits, 1.0, score), abs=2e-4)


@quick
@given(ordinary, temperatures, st.floats(1.0, 10.0), st.sampled_from(BOUNDED))
def test_hotter_is_never_less_hard(logits, temperature, factor, score):
    cool, hot = hardness(logits, temperature, score), hardness(logits, temperature * factor, score)
    assert (hot >= cool - 1e-5).all()


@pytest.mark.parametrize("score", EVERY)
@pytest.mark.parametrize(
    "row",
    [
        [math.nan, 1.0, 2.0],
        [1.0, math.inf, 2.0],
        [math.inf, math.inf],
        [-math.inf, -math.inf],
        [math.nan],
        [math.inf],
        [-math.inf],
    ],
)
def test_broken_row_is_as_hard_as_can_be_and_spoils_no_other(row, score):
    other = [0.5 * index for index in range(len(row))]
    broken, sound = hardness([row, other], 1.0, score)
    assert broken == (math.inf if score is Score.ENERGY else 1.0)
    assert sound == hardness([other], 1.0, score)[0]


@pytest.mark.parametrize("score", BOUNDED)
def test_one_class_leaves_nothing_to_be_unsure_of(score):
    assert hardness([[3.0], [-7.0]], 2.0, score).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("score", EVERY)
def test_no_class_at_all_is_hardest(score):
    scores = hardness(np.zeros((3, 0), np.float32), 1.0, score)
    assert scores.tolist() == [math.inf if score is Score.ENERGY else 1.0] * 3
    assert softmax(np.zeros((3, 0), np.float32)).shape == (3, 0)


@pytest.mark.parametrize("score", EVERY)
def test_no_rows_give_no_scores(score):
    assert hardness(np.zeros((0, 10), np.float32), 1.0, score).shape == (0,)


def test_zero_probability_counts_nothing():
    row = [0.0, -math.inf, -1e9]
    assert softmax(row).tolist() == [1.0, 0.0, 0.0]
    assert (max_probability(row), margin(row), entropy(row)) == (0.0, 0.0, 0.0)
    assert energy(row) == pytest.approx(0.0)
    assert entropy([0.0, 0.0, -math.inf]) == pytest.approx(math.log(2) / math.log(3))


def test_even_row_is_the_hardest_of_the_finite_ones():
    row = np.zeros(4)
    assert (max_probability(row), margin(row), entropy(row)) == (0.75, 1.0, 1.0)
    assert energy(row, 2.0) == pytest.approx(-2 * math.log(4))


def test_scores_keep_the_leading_axes():
    logits = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert margin(logits).shape == (2, 3)
    assert margin(logits[0, 0]).shape == ()


def test_temperature_divides_the_logits_and_not_the_probabilities():
    p = softmax([math.log(8.0), 0.0], temperature=3.0)
    assert p.tolist() == pytest.approx([2 / 3, 1 / 3])


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf, 1e-50, 1e50])
@pytest.mark.parametrize("score", EVERY)
def test_impossible_temperature_is_a_mistake(temperature, score):
    with pytest.raises(ValueError, match="temperature"):
        hardness([[1.0, 2.0]], temperature, score)


def test_learned_score_says_where_it_is_computed():
    with pytest.raises(ValueError, match=r"needs a manifest's coefficients: use shared\.deferral\.score"):
        hardness([[1.0, 2.0]], 1.0, Score.DEFERRAL)


def test_divided_logits_that_float32_cannot_hold_are_infinite():
    assert divided([1e30, -1e30, 3.0], 1e-10).tolist() == [math.inf, -math.inf, pytest.approx(3e10)]
