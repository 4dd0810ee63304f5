"""One look at the device's sensors; psutil is known here alone.

A sensor that is not there, or that does not answer, is None: most devices have no battery and many no temperature.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar

import psutil

from edge_agent.deciding.pressure import Readings
from edge_agent.deciding.settings import PressureSettings

log = logging.getLogger(__name__)

T = TypeVar("T")

# A sensor that was not there may come (a battery that is plugged in), but asking costs as much as a look at all others.
_LOOK_AGAIN_LOOKS = 60
_ROUTES = Path("/proc/net/route")
_UP = 0x1


@dataclass(frozen=True, slots=True)
class Probes:
    """What not every machine has; each gives None where there is nothing.

    Attributes:
        battery: charge in [0, 1], and whether it charges.
        temperature: of the hottest sensor, in °C.
    """

    battery: Callable[[], tuple[float, bool] | None] = lambda: None
    temperature: Callable[[], float | None] = lambda: None


class Sensors:
    """Reads battery, temperature, CPU, memory, disk and the kind of link; about 0.2 ms a look.

    Args:
        state_dir: the folder whose disk is watched.
        routes: the kernel's routing table, as `/proc/net/route` shows it.
        probes: in place of the machine's own battery and temperature.
    """

    def __init__(
        self, settings: PressureSettings, state_dir: Path, *, routes: Path = _ROUTES, probes: Probes | None = None
    ) -> None:
        self._settings, self._state_dir, self._routes = settings, state_dir, routes
        self._probes = probes or Probes(_battery, _hottest)
        self._absent: dict[str, int] = {}
        self._said: set[str] = set()
        psutil.cpu_percent()  # the first call has nothing to compare with

    def read(self, *, link_up: bool, round_trip_s: float | None) -> Readings:
        """Look at everything; what the uplink knows of the link comes along."""
        battery = self._ask("battery", self._probes.battery)
        return Readings(
            battery=battery[0] if battery else None,
            charging=battery[1] if battery else None,
            temperature_c=self._ask("temperature", self._probes.temperature),
            cpu=self._ask("cpu", lambda: psutil.cpu_percent() / 100.0),
            memory=self._ask("memory", lambda: psutil.virtual_memory().percent / 100.0),
            disk=self._ask("disk", lambda: psutil.disk_usage(str(self._state_dir)).percent / 100.0),
            round_trip_s=round_trip_s,
            metered=self._is_metered(),
            link_up=link_up,
        )

    def _ask(self, name: str, sensor: Callable[[], T | None]) -> T | None:
        if self._absent.get(name, 0) > 0:
            self._absent[name] -= 1
            return None
        try:
            value = sensor()
        except (OSError, RuntimeError, ValueError, AttributeError) as err:  # drivers fail in each of these ways
            if name not in self._said:
                self._said.add(name)
                log.warning("the %s sensor does not answer (%s): decisions are made without it", name, err)
            value = None
        if value is None:
            self._absent[name] = _LOOK_AGAIN_LOOKS
        return value

    def _is_metered(self) -> bool:
        patterns = self._settings.metered_interfaces
        if not patterns:
            return False
        interface = default_interface(self._routes)
        return interface is not None and any(fnmatch(interface, pattern) for pattern in patterns)


def default_interface(routes: Path = _ROUTES) -> str | None:
    """The network interface that traffic for the rest of the world leaves by; None: there is none, or it is unknown."""
    try:
        lines = routes.read_text().splitlines()[1:]
    except OSError:
        return None
    best: tuple[int, str] | None = None
    for line in lines:
        fields = line.split()
        if len(fields) < 8 or fields[1] != "00000000" or not int(fields[3], 16) & _UP:
            continue
        candidate = (int(fields[6]), fields[0])
        best = candidate if best is None else min(best, candidate)
    return best[1] if best else None


def _battery() -> tuple[float, bool] | None:
    battery = psutil.sensors_battery()
    if battery is None:
        return None
    return min(1.0, max(0.0, battery.percent / 100.0)), bool(battery.power_plugged)


def _hottest() -> float | None:
    # -273 and 0 are what sensors without a probe say.
    found = [entry.current for chip in psutil.sensors_temperatures().values() for entry in chip if entry.current > 0]
    return max(found, default=None)
