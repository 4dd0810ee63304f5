import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from shared import uncertainty
from shared.deferral import NAMES, features, score
from shared.manifest import Deferral

quick = settings(deadline=None, max_examples=150)
temperatures = st.floats(0.05, 20.0)
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
EVERYTHING = Deferral(intercept=-1.0, coefficients=dict.fromkeys(NAMES, 0.1))
BROKEN = ([math.nan, 1.0, 2.0], [1.0, math.inf, 2.0], [1.0, -math.inf, 2.0], [-math.inf] * 3, [1e30, 0.0, 1.0])


def reference(row, temperature):
    """The definitions in float64, one number at a time, without numpy and without a line of the module."""
    z = sorted((value / temperature for value in row), reverse=True)
    total = math.fsum(math.exp(value - z[0]) for value in z)
    p = [math.exp(value - z[0]) / total for value in z]
    rest = math.fsum(math.exp(value - z[1]) for value in z[1:])
    mean = math.fsum(z) / len(z)
    return {
        "max_probability": 1 - p[0],
        "margin": 1 - (p[0] - p[1]),
        "entropy": -math.fsum(x * math.log(x) for x in p if x > 0) / math.log(len(p)),
        "gini": 1 - math.fsum(x * x for x in p),
        "energy": -(z[0] + math.log(total)),
        "log_odds": min(max(z[1] + math.log(rest) - z[0], -16), 16),
        "first_logit": z[0],
        "second_logit": z[1],
        "logit_gap": z[0] - z[1],
        "logit_mean": mean,
        "logit_deviation": math.sqrt(math.fsum((value - mean) ** 2 for value in z) / len(z)),
        "rivals": math.log(rest),
    }


@quick
@given(ordinary, temperatures)
def test_features_are_what_their_names_say(logits, temperature):
    expected = [reference([float(x) for x in row], temperature) for row in logits]
    got = features(logits, temperature)
    assert tuple(got) == NAMES
    for name in NAMES:
        assert got[name].dtype == np.float32
        assert got[name] == pytest.approx([row[name] for row in expected], abs=2e-5, rel=2e-5), name


@quick
@given(ordinary, temperatures)
def test_features_named_like_a_score_are_that_score(logits, temperature):
    got = features(logits, temperature)
    for name in ("max_probability", "margin", "entropy"):
        assert got[name] == pytest.approx(getattr(uncertainty, name)(logits, temperature), abs=1e-5)


@quick
@given(ordinary, temperatures)
def test_score_is_the_logistic_of_the_weighted_features(logits, temperature):
    weights = {name: 0.05 * (index + 1) for index, name in enumerate(NAMES)}
    classes = tuple(0.3 * index for index in range(logits.shape[-1]))
    got = score(logits, temperature, Deferral(intercept=-0.7, coefficients=weights, classes=classes))
    for row, each in zip(logits, got, strict=True):
        values = features(row, temperature)
        total = -0.7 + sum(weights[name] * float(values[name]) for name in NAMES)
        total += classes[int((row / np.float32(temperature)).argmax())]
        assert each == pytest.approx(1 / (1 + math.exp(-total)) if total > -700 else 0.0, abs=1e-5)


@quick
@given(ordinary, temperatures)
def test_score_of_a_row_does_not_depend_on_its_neighbours(logits, temperature):
    together = score(logits, temperature, EVERYTHING)
    assert [float(score(row, temperature, EVERYTHING)) for row in logits] == together.tolist()


@quick
@given(anything, st.floats(1e-3, 1e3))
def test_score_of_any_numbers_has_a_value_and_no_warning(logits, temperature):
    scores = score(logits, temperature, EVERYTHING)
    assert scores.shape == logits.shape[:-1]
    assert scores.dtype == np.float32
    assert ((scores >= 0) & (scores <= 1)).all()
    assert all(each.shape == logits.shape[:-1] for each in features(logits, temperature).values())


@pytest.mark.parametrize("row", BROKEN)
def test_row_that_is_not_finite_is_as_hard_as_can_be_and_spoils_no_other(row):
    sound = [0.5, 1.0, 1.5]
    learned = Deferral(intercept=-9.0, coefficients={"entropy": 1.0}, classes=(0.0, 0.0, 1.0))
    assert score([row, sound], 1e-10 if row[0] == 1e30 else 1.0, learned)[0] == 1.0
    assert score([row, sound], 1.0, learned)[1] == score([sound], 1.0, learned)[0]
    tables = features([row, sound], 1e-10 if row[0] == 1e30 else 1.0)
    assert all(math.isnan(each[0]) and not math.isnan(each[1]) for each in tables.values())


@pytest.mark.parametrize("largest", [90.0, 1e5, 3e38])
def test_saturated_row_has_a_score_of_its_own(largest):
    row = [largest, -largest, 0.0]
    got = features(row)
    assert [got[name] for name in ("max_probability", "entropy", "gini")] == pytest.approx([0.0, 0.0, 0.0], abs=1e-30)
    assert got["log_odds"] == -16.0
    assert got["first_logit"] == pytest.approx(min(largest, 1e6))
    assert score(row, 1.0, Deferral(intercept=1.0, coefficients={"log_odds": 0.25})) == pytest.approx(
        1 / (1 + math.exp(3.0))
    )


def test_coefficients_beyond_all_measure_give_no_nan():
    learned = Deferral(intercept=0.0, coefficients={"first_logit": 1e308, "second_logit": -1e308})
    assert score([[5e5, 4e5, 0.0]], 1.0, learned) == 1.0


@pytest.mark.parametrize(("row", "expected"), [([3.0], 0.0), ([math.nan], 1.0), ([math.inf], 1.0), ([], 1.0)])
def test_fewer_than_two_classes_leave_nothing_to_tell_from(row, expected):
    assert score([row, row], 1.0, EVERYTHING).tolist() == [expected, expected]
    assert all(np.isnan(each).all() for each in features([row, row]).values())


def test_features_that_are_not_named_weigh_nothing():
    assert score([[1.0, 5.0, 2.0]], 1.0, Deferral(intercept=0.0)) == 0.5


def test_unknown_feature_is_a_mistake():
    learned = Deferral.model_construct(intercept=0.0, coefficients={"entropie": 1.0}, classes=())
    with pytest.raises(ValueError, match="there is no feature 'entropie'"):
        score([[1.0, 2.0]], 1.0, learned)


def test_other_number_of_classes_is_a_mistake():
    with pytest.raises(ValueError, match="2 coefficients of classes for 3 classes"):
        score([[1.0, 2.0, 3.0]], 1.0, Deferral(intercept=0.0, classes=(0.0, 1.0)))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf, 1e-50, 1e50])
def test_impossible_temperature_is_a_mistake(temperature):
    with pytest.raises(ValueError, match="temperature"):
        score([[1.0, 2.0]], temperature, EVERYTHING)
    with pytest.raises(ValueError, match="temperature"):
        features([[1.0, 2.0]], temperature)
