from itertools import islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.backoff import exponential, full_jitter


def test_bounds_double_up_to_the_cap():
    assert list(islice(exponential(0.5, 5.0), 6)) == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_cap_is_never_passed_however_long_it_lasts():
    assert max(islice(exponential(1e-3, 60.0, factor=10.0), 2_000)) == 60.0


def test_factor_one_waits_evenly():
    assert list(islice(exponential(2.0, 9.0, factor=1.0), 3)) == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("first", "cap", "factor"), [(0, 1, 2), (-1, 1, 2), (2, 1, 2), (1, 2, 0.5), (float("nan"), 1, 2)]
)
def test_impossible_bounds_are_a_mistake(first, cap, factor):
    with pytest.raises(ValueError, match="backoff"):
        next(exponential(first, cap, factor))


@given(st.floats(0.0, 1e6), st.integers(0, 2**32))
def test_jitter_stays_between_zero_and_the_bound(bound, seed):
    assert 0.0 <= full_jitter(bound, Random(seed)) <= bound


def test_jitter_uses_the_whole_range():
    rng = Random(1)
    drawn = [full_jitter(1.0, rng) for _ in range(1_000)]
    assert min(drawn) < 0.02
    assert max(drawn) > 0.98
    assert sum(drawn) / len(drawn) == pytest.approx(0.5, abs=0.05)
