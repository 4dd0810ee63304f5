import random

import pytest

from shared.intervals import wilson


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_matches_published_values(count, total, low, high):
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    assert wilson(count, total) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))


def test_wilson_covers_a_rare_share_as_often_as_it_says():
    rng, share, covered = random.Random(5), 0.03, 0
    for _ in range(2000):
        low, high = wilson(sum(rng.random() < share for _ in range(250)), 250)
        covered += low <= share <= high
    assert covered / 2000 == pytest.approx(0.95, abs=0.02)


def test_wilson_takes_effective_numbers():
    assert wilson(2, 50)[0] < wilson(2.5, 50.0)[0] < wilson(3, 50)[0]
    assert wilson(2, 50)[1] < wilson(2.5, 50.0)[1] < wilson(3, 50)[1]
    assert wilson(10.0 + 1e-12, 10.0)[1] == pytest.approx(1.0)
    assert wilson(0, 0) == (0.0, 1.0)
