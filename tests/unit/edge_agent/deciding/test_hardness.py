import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edge_agent.deciding import hardness
from edge_agent.deciding.hardness import Hardness
from shared import deferral, uncertainty
from shared.manifest import Deferral, Manifest, TensorSpec
from shared.uncertainty import Score

LEARNED = Deferral(intercept=-1.0, coefficients={"log_odds": 0.4, "entropy": 2.0}, classes=(0.0, 0.5, -0.5, 1.0))
OWN = object()


def manifest(**options):
    learned = {"deferral": LEARNED} if options.get("score") is Score.DEFERRAL else {}
    return Manifest(
        task="t",
        version="v1",
        labels=tuple("abcd"),
        input=TensorSpec(shape=(1,), dtype="uint8"),
        **{"threshold": 0.5, **learned, **options},
    )


def assess(logits, described, *, threshold=OWN):
    return hardness.assess(logits, described, threshold=described.threshold if threshold is OWN else threshold)


def scored(logits, temperature, score):
    if score is Score.DEFERRAL:
        return float(deferral.score(logits, temperature, LEARNED))
    return float(uncertainty.hardness(logits, temperature, score))


def row(*values):
    return np.array(values, dtype=np.float32)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("threshold", [None, 0.5, 5.0])
def test_assess_output_that_is_not_finite_is_hard_whatever_the_threshold(bad, threshold):
    judged = assess(row(9.0, bad, 0.0, 0.0), manifest(threshold=threshold))
    assert (judged.hard, judged.valid, judged.score, judged.confidence, judged.prediction) == (True, False, 1.0, 0.0, 0)


def test_assess_sure_output_is_not_hard():
    judged = assess(row(0.0, 0.0, 9.0, 0.0), manifest())
    assert (judged.hard, judged.valid, judged.prediction) == (False, True, 2)
    assert judged.confidence == pytest.approx(1 / (1 + 3 * math.exp(-9.0)), abs=1e-6)
    assert judged.score == pytest.approx(1 - judged.confidence)


def test_assess_score_equal_to_the_threshold_is_hard():
    logits = row(0.0, 0.0, -1e9, -1e9)  # p = 0.5 exactly
    assert assess(logits, manifest(threshold=0.5)).hard
    assert not assess(logits, manifest(threshold=np.nextafter(0.5, 1.0))).hard


def test_assess_without_a_threshold_nothing_valid_is_hard():
    assert not assess(row(0.0, 0.0, 0.0, 0.0), manifest(threshold=None)).hard


def test_assess_temperature_divides_the_logits():
    hot = assess(row(2.0, 0.0, 0.0, 0.0), manifest(temperature=2.0))
    assert hot.confidence == pytest.approx(math.e / (math.e + 3), abs=1e-6)


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (Score.MAX_PROBABILITY, 1 - 0.7),
        (Score.MARGIN, 1 - (0.7 - 0.1)),
        (Score.ENTROPY, -(0.7 * math.log(0.7) + 3 * 0.1 * math.log(0.1)) / math.log(4)),
        (Score.ENERGY, 0.0),
    ],
)
def test_assess_uses_the_manifests_score(score, expected):
    logits = np.log(row(0.7, 0.1, 0.1, 0.1))
    judged = assess(logits, manifest(score=score, threshold=expected - 1e-5))
    assert judged.score == pytest.approx(expected, abs=1e-6)
    assert judged.hard
    assert not assess(logits, manifest(score=score, threshold=expected + 1e-5)).hard


@given(
    arrays(np.float32, 4, elements=st.floats(-30, 30, width=32)),
    st.sampled_from(list(Score)),
    st.just(1.0) | st.floats(0.25, 4.0),
)
def test_assess_score_is_bit_for_bit_the_one_that_thresholds_are_made_from(logits, score, temperature):
    threshold = scored(logits, temperature, score)
    judged = assess(logits, manifest(score=score, temperature=temperature, threshold=threshold))
    assert judged.score == threshold
    assert judged.hard


@pytest.mark.parametrize("score", Score)
def test_assess_finite_logits_that_a_temperature_makes_infinite_are_invalid_too(score):
    judged = assess(row(1e30, 0.0, 0.0, 0.0), manifest(score=score, temperature=1e-10))
    assert (judged.hard, judged.valid, judged.score, judged.confidence) == (True, False, 1.0, 0.0)


@pytest.mark.parametrize("given_threshold", [0.1, 0.9, None])
def test_assess_the_threshold_given_replaces_the_manifests(given_threshold):
    logits = row(0.0, 0.0, -1e9, -1e9)  # its score is 0.5
    assert assess(logits, manifest(threshold=0.4), threshold=given_threshold).hard == (given_threshold == 0.1)


@pytest.mark.parametrize("score", Score)
@pytest.mark.parametrize("largest", [50.0, 1e29, 3e38])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 1e20])
def test_assess_logits_of_any_size_are_judged_as_the_score_has_it(largest, temperature, score):
    logits = row(-largest, largest, 1.0, 0.0)
    judged = assess(logits, manifest(score=score, temperature=temperature, threshold=None))
    assert judged.valid
    assert (judged.prediction, judged.score) == (1, scored(logits, temperature, score))
    assert judged.confidence == uncertainty.softmax(logits, temperature).max()


@pytest.mark.parametrize("logits", [row(-3e38, 5.0, 1.0, 0.0), row(3e38, 5.0, 1.0, 0.0)])
def test_assess_logits_that_overflow_on_the_way_are_judged_without_a_warning(logits):
    described = manifest(temperature=0.5)
    judged = assess(logits, described)
    assert judged.valid == (logits[0] < 0)
    assert judged.score == scored(logits, 0.5, described.score)


def test_assess_two_labels_as_probable_the_first_is_the_answer():
    assert assess(row(0.0, 3.0, 3.0, 0.0), manifest()).prediction == 1


def test_assess_one_label_leaves_nothing_to_be_unsure_of():
    only = manifest().model_copy(update={"labels": ("a",)})
    assert assess(row(-7.0), only) == Hardness(prediction=0, confidence=1.0, score=0.0, valid=True, hard=False)


def test_assess_temperature_that_float32_cannot_hold_is_a_mistake_in_the_manifest():
    with pytest.raises(ValueError, match="temperature"):
        assess(row(1.0, 0.0, 0.0, 0.0), manifest(temperature=1e50))


@pytest.mark.parametrize("classes", [hardness._FEW, hardness._FEW + 1, 1000])
def test_assess_few_labels_and_many_are_judged_alike(classes):
    logits = np.random.default_rng(classes).normal(0, 3, classes).astype(np.float32)
    found = assess(logits, manifest())
    assert found.prediction == int(logits.argmax())
    assert found.score == float(uncertainty.max_probability(logits))
    for bad in (math.nan, math.inf, -math.inf):
        assert not assess(np.where(np.arange(classes) == 5, np.float32(bad), logits), manifest()).valid
