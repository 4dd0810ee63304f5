import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edge_agent.deciding.hardness import assess
from shared import uncertainty
from shared.manifest import Manifest, TensorSpec
from shared.uncertainty import Score


def manifest(**options):
    return Manifest(
        task="t",
        version="v1",
        labels=tuple("abcd"),
        input=TensorSpec(shape=(1,), dtype="uint8"),
        **{"threshold": 0.5, **options},
    )


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
    st.floats(0.25, 4.0),
)
def test_assess_score_is_bit_for_bit_the_one_that_thresholds_are_made_from(logits, score, temperature):
    threshold = float(uncertainty.hardness(logits, temperature, score))
    judged = assess(logits, manifest(score=score, temperature=temperature, threshold=threshold))
    assert judged.score == threshold
    assert judged.hard


@pytest.mark.parametrize("score", Score)
def test_assess_finite_logits_that_a_temperature_makes_infinite_are_invalid_too(score):
    judged = assess(row(1e30, 0.0, 0.0, 0.0), manifest(score=score, temperature=1e-10))
    assert (judged.hard, judged.valid, judged.score, judged.confidence) == (True, False, 1.0, 0.0)
