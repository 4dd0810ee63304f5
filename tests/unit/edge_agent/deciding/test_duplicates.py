import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edge_agent.deciding.duplicates import FARTHEST, RecentlySent
from edge_agent.deciding.settings import DuplicateSettings


def row(*values):
    return np.array(values, dtype=np.float32)


def at(degrees):
    """A direction in the plane."""
    return row(math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))


def recent(**options):
    return RecentlySent(DuplicateSettings(**options))


def test_nothing_was_sent_yet_nothing_is_near():
    assert recent().nearest(row(1.0, 2.0), 0.0) == FARTHEST


def test_distance_is_that_of_the_cosine_whatever_the_lengths():
    sent = recent()
    sent.remember(3.0 * at(0), 0.0)
    for degrees in (0, 30, 90, 180):
        assert sent.nearest(0.01 * at(degrees), 1.0) == pytest.approx(1 - math.cos(math.radians(degrees)), abs=1e-6)


@given(arrays(np.float32, (20, 6), elements=st.floats(-9, 9, width=32)))
def test_nearest_is_the_smallest_distance_to_any_that_was_sent(rows):
    rows = rows + np.float32(20)  # no zeros
    sent = recent()
    for each in rows[:-1]:
        sent.remember(each, 0.0)
    units = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    assert sent.nearest(rows[-1], 0.0) == pytest.approx(max(0.0, 1 - (units[:-1] @ units[-1]).max()), abs=1e-6)


def test_the_oldest_gives_its_place_to_the_newest():
    sent = recent(remember=2)
    for degrees in (0, 90, 180):
        sent.remember(at(degrees), 0.0)
    assert sent.nearest(at(0), 0.0) == pytest.approx(1.0, abs=1e-6)
    assert sent.nearest(at(90), 0.0) == pytest.approx(0.0, abs=1e-6)
    assert sent.nearest(at(180), 0.0) == pytest.approx(0.0, abs=1e-6)


def test_what_was_sent_is_remembered_for_a_while():
    sent = recent(for_s=60.0)
    sent.remember(at(0), 100.0)
    sent.remember(at(90), 130.0)
    assert sent.nearest(at(0), 160.0) == pytest.approx(0.0, abs=1e-6)
    assert sent.nearest(at(0), 160.1) == pytest.approx(1.0, abs=1e-6)
    assert sent.nearest(at(0), 190.1) == FARTHEST


@pytest.mark.parametrize("broken", [row(0.0, 0.0), row(math.nan, 1.0), row(math.inf, 1.0), row(-math.inf, 1.0), row()])
def test_embedding_without_a_direction_is_like_no_other(broken):
    sent = recent()
    sent.remember(broken, 0.0)
    assert sent.nearest(broken, 0.0) == FARTHEST
    assert sent.nearest(at(0), 0.0) == FARTHEST
    sent.remember(at(0), 0.0)
    assert sent.nearest(broken, 0.0) == FARTHEST


@pytest.mark.parametrize("scale", [1e-38, 3e38])
def test_embedding_of_any_size_has_a_direction(scale):
    sent = recent()
    sent.remember(row(scale, scale), 0.0)
    assert sent.nearest(row(1.0, 1.0), 0.0) == pytest.approx(0.0, abs=1e-6)


def test_embedding_may_have_any_shape_and_type():
    sent = recent()
    sent.remember(np.array([[3, 4], [0, 0]], dtype=np.int8), 0.0)
    assert sent.nearest(np.array([3.0, 4.0, 0.0, 0.0], dtype=np.float16), 0.0) == pytest.approx(0.0, abs=1e-6)


def test_another_models_embeddings_are_not_compared():
    sent = recent()
    sent.remember(row(1.0, 0.0), 0.0)
    assert sent.nearest(row(1.0, 0.0, 0.0), 0.0) == FARTHEST
    sent.remember(row(1.0, 0.0, 0.0), 0.0)
    assert sent.nearest(row(1.0, 0.0, 0.0), 0.0) == pytest.approx(0.0, abs=1e-6)
    assert sent.nearest(row(1.0, 0.0), 0.0) == FARTHEST
    sent.forget()
    assert sent.nearest(row(1.0, 0.0, 0.0), 0.0) == FARTHEST


def test_duplicate_is_within_the_distance_of_the_settings():
    sent = recent(distance=0.01)
    assert [sent.is_duplicate(distance) for distance in (0.0, 0.01, 0.0101, FARTHEST)] == [True, True, False, False]


def test_distance_of_zero_turns_it_off():
    assert not recent(distance=0.0).is_duplicate(0.0)
