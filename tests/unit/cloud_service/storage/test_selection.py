"""Which samples are worth keeping: pure maths."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_service.storage.selection import choose, uncertainty


def on_circle(*degrees: float) -> np.ndarray:
    angles = np.radians(np.array(degrees))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def ones(count: int) -> np.ndarray:
    return np.ones(count, np.float32)


def labels(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_uncertainty_is_largest_where_the_teacher_wavers_and_the_edge_was_wrong():
    probabilities = np.array([[1, 0, 0], [1, 0, 0], [1 / 3, 1 / 3, 1 / 3]], np.float32)
    sure, wrong, wavering = uncertainty(probabilities, labels(0, 1, 0))
    assert sure == pytest.approx(0.0, abs=1e-6)
    assert wrong == pytest.approx(0.5, abs=1e-6)
    assert wavering == pytest.approx((1 + 2 / 3) / 2, abs=1e-6)


def test_uncertainty_of_a_label_that_the_teacher_does_not_have_is_disagreement():
    assert uncertainty(np.array([[1.0, 0.0]], np.float32), labels(5)).tolist() == [0.5]


def test_choice_spreads_over_what_is_unlike():
    embeddings = on_circle(0, 1, 2, 90, 180)
    assert choose(embeddings, ones(5), labels(0, 0, 0, 0, 0), limit=3) == [0, 4, 3]


def test_uncertain_sample_comes_before_a_certain_one_as_far_away():
    embeddings = on_circle(0, 90, -90)
    weight = np.array([1.0, 0.2, 0.8], np.float32)
    assert choose(embeddings, weight, labels(0, 0, 0), limit=3) == [0, 2, 1]


def test_copy_of_a_taken_one_comes_last_however_uncertain():
    embeddings = on_circle(0, 0, 30)
    weight = np.array([1.0, 1.0, 0.1], np.float32)
    assert choose(embeddings, weight, labels(0, 0, 0), limit=3) == [0, 2, 1]


def test_weight_alone_decides_without_embeddings():
    embeddings = np.zeros((3, 0), np.float32)
    assert choose(embeddings, np.array([0.1, 0.9, 0.5], np.float32), labels(0, 0, 0), limit=2) == [1, 2]


def test_quota_holds_for_each_class():
    embeddings = on_circle(0, 60, 120, 180, 240)
    chosen = choose(embeddings, ones(5), labels(0, 0, 0, 0, 1), limit=5, per_class=2)
    assert sorted(np.bincount([0 if index < 4 else 1 for index in chosen]).tolist()) == [1, 2]


def test_nothing_to_choose_from_is_no_choice():
    assert choose(np.zeros((0, 2), np.float32), ones(0), labels(), limit=3) == []
    assert choose(on_circle(0), ones(1), labels(0), limit=0) == []


@given(st.integers(0, 30), st.integers(0, 40), st.integers(1, 5) | st.none(), st.integers(0, 4), st.integers(0, 2**31))
def test_choice_is_distinct_and_as_large_as_the_limits_allow(count, limit, per_class, width, seed):
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 3, count)
    embeddings = rng.normal(size=(count, width)).astype(np.float32)
    embeddings /= np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-9)
    chosen = choose(embeddings, rng.random(count).astype(np.float32), classes, limit=limit, per_class=per_class)
    assert len(set(chosen)) == len(chosen)
    counts = np.bincount(classes, minlength=3)
    room = counts.sum() if per_class is None else np.minimum(counts, per_class).sum()
    assert len(chosen) == min(limit, int(room))
    if per_class is not None:
        assert all(np.bincount(classes[chosen], minlength=3) <= per_class)
