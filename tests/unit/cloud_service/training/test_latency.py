import numpy as np
import pytest

from cloud_service.training.latency import compare_latency

SAMPLE = np.zeros((8, 8), np.uint8)


def work(size):
    matrix = np.ones((size, size))

    def run(x):
        return matrix @ matrix

    return run


def test_model_that_works_far_more_takes_a_multiple():
    found = compare_latency(work(300), work(10), SAMPLE, rounds=30)
    assert found.ratio > 10
    assert found.low <= found.ratio <= found.high
    assert found.new_us > found.old_us


def test_ratio_of_a_model_to_the_slower_one_is_below_one():
    assert compare_latency(work(10), work(300), SAMPLE, rounds=30).ratio < 0.1


def test_models_take_turns_and_lead_in_turn():
    turns, shapes = [], set()

    def named(name):
        def run(x):
            turns.append(name)
            shapes.add(x.shape)

        return run

    compare_latency(named("new"), named("old"), SAMPLE, rounds=10)
    timed = turns[-20:]
    assert timed == ["new", "old", "old", "new"] * 5
    assert turns[:-20] == ["new", "old"] * 20  # warm-up
    assert shapes == {(1, 8, 8)}


def test_too_few_rounds_are_a_mistake():
    with pytest.raises(ValueError, match="9 rounds"):
        compare_latency(work(1), work(1), SAMPLE, rounds=9)
