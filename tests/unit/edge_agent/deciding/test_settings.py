import pytest
from pydantic import ValidationError

from edge_agent.deciding.settings import (
    BatteryGauge,
    BudgetSettings,
    DuplicateSettings,
    PressureSettings,
    SteadinessSettings,
    TemperatureGauge,
)


@pytest.mark.parametrize("goal", [{"offload": 0.15}, {"agreement": 0.97}, {"bytes_per_day": 20_000_000}])
def test_budget_with_a_goal_is_set(goal):
    assert BudgetSettings(**goal).is_set
    assert not BudgetSettings(speed=0.01).is_set


@pytest.mark.parametrize(
    "goal",
    [{"offload": 0.0}, {"offload": 1.1}, {"agreement": 1.0}, {"agreement": 0.0}, {"bytes_per_day": 0}, {"speed": 0.0}],
)
def test_budget_that_cannot_be_is_refused(goal):
    with pytest.raises(ValidationError):
        BudgetSettings(**goal)


@pytest.mark.parametrize("field", [{"distance": -0.1}, {"distance": 2.1}, {"remember": 0}, {"for_s": 0.0}])
def test_duplicates_that_cannot_be_are_refused(field):
    with pytest.raises(ValidationError):
        DuplicateSettings(**field)


def test_flicker_that_can_never_happen_is_refused():
    with pytest.raises(ValidationError, match="4 answers change 3 times at most"):
        SteadinessSettings(flicker_changes=4, flicker_window=4)
    SteadinessSettings(flicker_changes=3, flicker_window=4)


def test_pressure_that_would_flap_is_refused_by_name():
    with pytest.raises(ValidationError, match="battery: 'end' must be at least 'begin'"):
        PressureSettings(battery=BatteryGauge(begin=0.5, end=0.4))
    with pytest.raises(ValidationError, match="temperature_c: 'end' must be at most 'begin'"):
        PressureSettings(temperature_c=TemperatureGauge(begin=70.0, end=75.0))
    PressureSettings(battery=BatteryGauge(begin=0.5, end=0.5))
