import numpy as np
import pytest

from cloud_service.simulate.tally import Times


def test_quantiles_are_within_two_percent():
    values = np.random.default_rng(1).lognormal(-4, 1.5, 20_000)
    times = Times()
    for value in values:
        times.add(float(value))
    for share in (0.5, 0.95, 0.99):
        assert times.quantile_s(share) == pytest.approx(float(np.quantile(values, share)), rel=0.02)
    assert times.longest_s == values.max()


def test_no_times_have_no_quantiles():
    assert Times().quantile_s(0.5) is None
    assert Times().summary_ms() == {"p50": None, "p95": None, "p99": None, "longest": None}


def test_summary_is_in_milliseconds():
    times = Times()
    times.add(0.0)
    times.add(2.0)
    assert times.summary_ms() == {
        "p50": pytest.approx(0.001, abs=1e-3),
        "p95": pytest.approx(2000.0, rel=0.02),
        "p99": pytest.approx(2000.0, rel=0.02),
        "longest": 2000.0,
    }


def test_memory_does_not_grow_with_the_number_of_times():
    times = Times()
    for n in range(50_000):
        times.add((n % 1_000) / 1_000)
    assert len(times._bins) < 600
