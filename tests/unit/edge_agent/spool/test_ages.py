import pytest

from edge_agent.spool.ages import DeviceClock
from tests.sim.clock import SimulatedClock


@pytest.fixture
def clocks():
    wall, monotonic = SimulatedClock(start=1e9), SimulatedClock()
    return DeviceClock(wall, monotonic), wall, monotonic


def test_jump_of_the_date_is_told_once(clocks):
    clock, wall, monotonic = clocks
    wall.now += 3600.0
    monotonic.now += 5.0
    assert clock.was_set_by_s() == pytest.approx(3595.0)
    assert clock.was_set_by_s() == 0.0
    wall.now -= 7200.0
    assert clock.was_set_by_s() == pytest.approx(-7200.0)


def test_drift_and_passing_time_are_no_jump(clocks):
    clock, wall, monotonic = clocks
    wall.now += 100_030.0
    monotonic.now += 100_000.0
    assert clock.was_set_by_s() == 0.0


def test_age_is_never_negative(clocks):
    clock, wall, _ = clocks
    assert clock.age_s(1e9 - 5.0) == 5.0
    wall.now -= 100.0
    assert clock.age_s(1e9 - 5.0) == 0.0
