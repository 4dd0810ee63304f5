from itertools import pairwise
from random import Random

import pytest

from cloud_service.simulate.arrivals import Pattern, factor, next_arrival


def arrivals(pattern, *, rate, period_s, until_s):
    rng, at_s, found = Random(3), 0.0, []
    while at_s < until_s:
        at_s = next_arrival(pattern, at_s, rate=rate, period_s=period_s, rng=rng)
        found.append(at_s)
    return found


@pytest.mark.parametrize("pattern", Pattern)
def test_mean_of_the_factor_is_1(pattern):
    steps = 10_000
    assert sum(factor(pattern, n * 7.0 / steps, period_s=7.0) for n in range(steps)) / steps == pytest.approx(
        1.0, rel=0.002
    )


@pytest.mark.parametrize("pattern", Pattern)
def test_arrivals_come_at_the_mean_rate(pattern):
    assert len(arrivals(pattern, rate=50.0, period_s=10.0, until_s=400.0)) == pytest.approx(20_000, rel=0.03)


def test_steady_arrivals_have_the_waits_of_a_poisson_process():
    found = arrivals(Pattern.STEADY, rate=10.0, period_s=1.0, until_s=2_000.0)
    waits = sorted(b - a for a, b in pairwise(found))
    assert waits[len(waits) // 2] == pytest.approx(0.0693, rel=0.05)  # ln 2 / rate


def test_bursts_come_in_the_first_tenth_alone():
    assert all(at_s % 10.0 < 1.0 for at_s in arrivals(Pattern.BURST, rate=5.0, period_s=10.0, until_s=200.0))


def test_day_is_quiet_at_night():
    found = arrivals(Pattern.DAY, rate=100.0, period_s=24.0, until_s=24.0)
    night = sum(at_s < 2.0 or 22.0 < at_s < 24.0 for at_s in found)
    noon = sum(10.0 < at_s < 14.0 for at_s in found)
    assert night * 5 < noon
