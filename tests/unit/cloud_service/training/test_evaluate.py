import numpy as np
import pytest

from cloud_service.errors import ModelError
from cloud_service.training import evaluate

LOGITS = np.array([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0]], dtype=np.float32)
ANSWERS = np.array([0, 1, 1, 1])


def test_share_right_counts_weights():
    assert evaluate.share_right(LOGITS, ANSWERS) == 0.75
    assert evaluate.share_right(LOGITS, ANSWERS, np.array([1.0, 1.0, 6.0, 2.0])) == pytest.approx(0.4)


def test_share_right_per_class_leaves_absent_classes_out():
    shares = evaluate.share_right_per_class(LOGITS, ANSWERS, labels=("a", "b"))
    assert shares == {"a": 1.0, "b": pytest.approx(2 / 3)}
    assert evaluate.share_right_per_class(LOGITS[:1], ANSWERS[:1], labels=("a", "b")) == {"a": 1.0}


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    confidence = 1 / (1 + np.exp(-2.0))
    assert evaluate.calibration_error(LOGITS, ANSWERS, temperature=1.0) == pytest.approx(confidence - 0.75, abs=1e-6)
    assert evaluate.calibration_error(LOGITS[:2], ANSWERS[:2], temperature=0.01) == pytest.approx(0.0, abs=1e-6)


def test_calibration_error_counts_weights():
    weight = np.array([1.0, 1.0, 0.5, 0.5])
    right = 2.5 / 3
    got = evaluate.calibration_error(LOGITS, ANSWERS, temperature=1.0, weight=weight)
    assert got == pytest.approx(abs(1 / (1 + np.exp(-2.0)) - right), abs=1e-6)


def test_paired_error_is_that_of_the_mean_difference():
    old = LOGITS[:, ::-1].copy()
    difference = np.array([1, 1, -1, 1])
    expected = np.sqrt(((difference - 0.5) ** 2).sum()) / 4
    assert evaluate.paired_error(LOGITS, old, ANSWERS) == pytest.approx(expected)
    assert evaluate.paired_error(LOGITS, LOGITS, ANSWERS, np.ones(4)) == 0.0


def test_latencies_take_turns():
    turns = []

    def runner(name):
        def run(x):
            turns.append(name)
            return np.zeros((len(x), 2), np.float32)

        return run

    medians = evaluate.latencies_us([runner("new"), runner("old")], np.zeros((8, 8), np.uint8), rounds=3)
    assert turns == ["new", "old"] * 3
    assert all(median > 0 for median in medians)


def test_largest_difference():
    assert evaluate.largest_difference(LOGITS, LOGITS + 0.5) == 0.5
    assert evaluate.largest_difference(LOGITS[:0], LOGITS[:0]) == 0.0


def test_runner_finds_the_logits(task):
    logits = evaluate.open_runner(task.teacher[0].files[0].read_bytes())(np.zeros((2, 8, 8), np.uint8))
    assert logits.shape == (2, 4)
    assert logits.dtype == np.float32


def test_model_that_does_not_load_says_so():
    with pytest.raises(ModelError, match="does not load"):
        evaluate.open_runner(b"not onnx")


def test_model_that_does_not_take_the_samples_says_so(task):
    with pytest.raises(ModelError, match=r"does not run on samples of shape \[2, 3, 3\]"):
        evaluate.open_runner(task.teacher[0].files[0])(np.zeros((2, 3, 3), np.uint8))


def test_per_class_holds_both_models_and_those_without_a_sample():
    old = LOGITS[:, ::-1].copy()
    first, second, third = evaluate.per_class(LOGITS, old, ANSWERS, labels=("a", "b", "c"))
    assert (first.label, first.samples, first.candidate, first.incumbent) == ("a", 1, 1.0, 0.0)
    assert (second.samples, second.candidate, second.incumbent) == (3, pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert second.error == pytest.approx(evaluate.paired_error(LOGITS[1:], old[1:], ANSWERS[1:]))
    assert (third.samples, third.candidate, third.incumbent) == (0, 0.0, None)


def test_per_class_of_the_first_model_compares_with_nothing():
    first, _ = evaluate.per_class(LOGITS, None, ANSWERS, labels=("a", "b"))
    assert (first.incumbent, first.error) == (None, 0.0)
