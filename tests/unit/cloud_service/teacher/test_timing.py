import time

import numpy as np
import pytest

from cloud_service.teacher.model import Outputs
from cloud_service.teacher.timing import fitting_clock, interleaved_us


class Network:
    """Takes `seconds` a sample on the simulated clock, and `start` a batch."""

    def __init__(self, clock, asked, *, seconds, start=0.0):
        self.clock, self.asked, self.seconds, self.start = clock, asked, seconds, start

    def __call__(self, samples):
        self.asked.append((self.seconds, len(samples)))
        self.clock.now += self.start + self.seconds * len(samples)
        return Outputs(np.zeros((len(samples), 2), np.float32))


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_networks_take_turns_and_are_timed_by_the_sample():
    clock, asked = Clock(), []
    slow, fast = Network(clock, asked, seconds=0.002, start=0.01), Network(clock, asked, seconds=0.001)
    x = np.zeros((3, 4), np.uint8)
    got = interleaved_us([slow, fast], x, sizes=[(1, 8), (1, 8)], rounds=6, budget_s=100.0, clock=clock)
    assert got[0] == {1: pytest.approx(12_000), 8: pytest.approx(3_250)}
    assert got[1] == {1: pytest.approx(1_000), 8: pytest.approx(1_000)}
    assert asked[4:12] == [(0.002, 1), (0.002, 8), (0.001, 1), (0.001, 8)] * 2


def test_measuring_ends_with_its_budget_but_not_before_the_fifth_round():
    clock, asked = Clock(), []
    interleaved_us([Network(clock, asked, seconds=10.0)], np.zeros((1, 1)), sizes=[(1,)], budget_s=1.0, clock=clock)
    assert len(asked) == 1 + 5


def test_clock_counts_the_threads_own_time_only_where_that_is_all_a_run_takes():
    assert fitting_clock(threads=1, on_cpu=True) is time.thread_time
    assert fitting_clock(threads=2, on_cpu=True) is time.perf_counter
    assert fitting_clock(threads=1, on_cpu=False) is time.perf_counter
