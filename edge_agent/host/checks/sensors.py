"""What the device's sensors say now; one that is not there is normal."""

from __future__ import annotations

from collections.abc import Iterator

from edge_agent.deciding.pressure import Readings
from edge_agent.deciding.settings import PressureSettings
from edge_agent.host.checks.finding import Finding, ok, warn

_CHECK = "sensors"


def check_sensors(readings: Readings, pressure: PressureSettings) -> Iterator[Finding]:
    """Findings on one reading, held against the thresholds of the settings."""
    if readings.battery is None:
        yield ok(_CHECK, "there is no battery: mains is assumed")
    else:
        charging = "charging" if readings.charging else "not charging"
        says = f"the battery is at {readings.battery:.0%}, {charging}"
        low = readings.battery <= pressure.battery.begin and not readings.charging
        yield warn(_CHECK, f"{says}: the agent does less until it is charged") if low else ok(_CHECK, says)
    if readings.temperature_c is None:
        yield ok(_CHECK, "there is no temperature sensor: heat is not looked at")
    else:
        says = f"the hottest sensor has {readings.temperature_c:.0f} °C"
        hot = readings.temperature_c >= pressure.temperature_c.begin
        yield warn(_CHECK, f"{says}: the agent does less until it cools; give it air") if hot else ok(_CHECK, says)
    for what, value, begin in (
        ("the memory", readings.memory, pressure.memory.begin),
        ("the disk of the state folder", readings.disk, pressure.disk.begin),
    ):
        if value is not None and value >= begin:
            yield warn(_CHECK, f"{value:.0%} of {what} is in use: the agent does less until it is not")
