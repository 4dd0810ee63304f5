import pytest

from edge_agent.day import DAY_S, Day
from tests.sim.clock import SimulatedClock


def at(*, wall=1_000_000.0, saved=None):
    monotonic, clock = SimulatedClock(), SimulatedClock(wall)
    return Day(saved, monotonic=monotonic, wall=clock), monotonic, clock


def test_day_ends_after_its_time_and_the_next_follows_without_a_gap():
    day, monotonic, _ = at()
    day.add(100)
    monotonic.advance(DAY_S - 1)
    assert day.today() == 100
    monotonic.advance(1)
    assert day.today() == 0
    day.add(7)
    monotonic.advance(1.5 * DAY_S)  # into the middle of a later day
    assert day.today() == 0
    day.add(9)
    monotonic.advance(DAY_S / 2 - 1)
    assert day.today() == 9
    monotonic.advance(1)
    assert day.today() == 0


def test_day_is_not_ended_by_a_clock_that_is_set_while_it_runs():
    day, _, wall = at(wall=0.0)
    day.add(100)
    wall.advance(1e9)
    assert day.today() == 100


def test_day_goes_on_over_a_restart_by_the_wall_clock():
    day, monotonic, wall = at()
    day.add(100)
    monotonic.advance(3600)
    wall.advance(3600)
    saved = day.as_dict()
    later, monotonic, _ = at(wall=1_000_000.0 + 3600 + 1800, saved=saved)
    assert later.today() == 100
    monotonic.advance(DAY_S - 5400 - 1)
    assert later.today() == 100
    monotonic.advance(1)
    assert later.today() == 0


def test_day_without_a_clock_grows_longer_and_never_allows_twice():
    day, monotonic, _ = at()
    day.add(100)
    monotonic.advance(DAY_S / 2)
    later, monotonic, _ = at(wall=0.0, saved=day.as_dict())  # 1970 again
    assert later.today() == 100
    monotonic.advance(DAY_S / 2)
    assert later.today() == 0


def test_day_takes_what_was_granted_for_spent_after_a_crash_and_forgets_it_with_the_day():
    day, monotonic, _ = at()
    day.add(100)
    day.granted = 150
    assert at(saved=day.as_dict())[0].today() == 150
    monotonic.advance(DAY_S)
    assert (day.today(), day.granted, day.as_dict()["spent"]) == (0, 0, 0)


@pytest.mark.parametrize(
    "saved",
    [
        {},
        {"spent": -1, "age_s": 0, "wall_s": 0},
        {"spent": 1, "age_s": -1, "wall_s": 0},
        {"spent": 1, "age_s": 1e9, "wall_s": 0},
        {"spent": "x", "age_s": 0, "wall_s": 0},
        {"spent": None, "age_s": 0, "wall_s": 0},
        {"spent": 1, "age_s": float("nan"), "wall_s": 0},
    ],
)
def test_day_refuses_what_it_did_not_save(saved):
    with pytest.raises((ValueError, KeyError, TypeError)):
        Day(saved)
