"""What a plan says of itself."""

import inspect

import pytest

from cloud_service.simulate.arrivals import Pattern
from cloud_service.simulate.cli import simulate
from cloud_service.simulate.plan import Load


@pytest.mark.parametrize(
    ("pattern", "period_s", "swing_s"),
    [(Pattern.BURST, None, 10.0), (Pattern.STEADY, None, 10.0), (Pattern.DAY, None, 90.0), (Pattern.DAY, 7.0, 7.0)],
)
def test_day_lasts_as_long_as_the_load_unless_told_otherwise(pattern, period_s, swing_s):
    assert Load(duration_s=90.0, pattern=pattern, period_s=period_s).swing_s == swing_s


def test_command_is_within_the_limit_of_a_function():
    assert len(inspect.getsource(simulate).splitlines()) <= 60
