"""Readings held against the thresholds at which the agent does less."""

from edge_agent.deciding.pressure import Readings
from edge_agent.deciding.settings import PressureSettings
from edge_agent.host.checks.sensors import check_sensors


def levels(**readings):
    values = {
        "battery": None,
        "charging": None,
        "temperature_c": None,
        "cpu": 0.1,
        "memory": 0.5,
        "disk": 0.5,
        "round_trip_s": None,
        "metered": False,
        "link_up": True,
        **readings,
    }
    return [finding.level.value for finding in check_sensors(Readings(**values), PressureSettings())]


def test_sensors_that_are_not_there_are_normal():
    assert levels() == ["ok", "ok"]


def test_sensors_below_their_thresholds_are_ok():
    assert levels(battery=0.8, charging=False, temperature_c=60.0) == ["ok", "ok"]
    assert levels(battery=0.1, charging=True) == ["ok", "ok"]


def test_sensors_at_their_thresholds_are_told():
    assert levels(battery=0.3, charging=False) == ["warn", "ok"]
    assert levels(temperature_c=80.0) == ["ok", "warn"]
    assert levels(memory=0.95, disk=0.99) == ["ok", "ok", "warn", "warn"]
