"""`edge-agent doctor`: looks at everything the agent stands on, and says in plain words what to do.

It takes nothing from a running agent: it reads, connects under a name of its own, and writes one small file that it
removes. Every check runs, whatever the others found.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_agent.deciding.pressure import Readings
from edge_agent.host.checks.broker import check_broker
from edge_agent.host.checks.certificates import check_certificates
from edge_agent.host.checks.clock import check_clock, kernel_clock_state
from edge_agent.host.checks.disk import check_disk
from edge_agent.host.checks.finding import Finding, fail
from edge_agent.host.checks.model import check_accelerators, check_model
from edge_agent.host.checks.sensors import check_sensors
from edge_agent.host.checks.server import check_server
from edge_agent.host.checks.sources import check_sources
from edge_agent.host.needs import other_brokers
from edge_agent.settings import AgentSettings
from edge_agent.status import is_running
from shared.mqtt import BrokerSettings, Connector, connector

log = logging.getLogger(__name__)

_SYS, _MOUNTS = Path("/sys"), Path("/proc/self/mounts")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The outside world, for tests.

    Attributes:
        sense: one reading of the sensors.
        wall: seconds since 1970.
    """

    connector: Callable[[BrokerSettings], Connector]
    sense: Callable[[], Readings]
    wall: Callable[[], float] = time.time


def examine(settings: AgentSettings, around: Surroundings | None = None) -> Iterator[Finding]:
    """All findings, in order, as they are made."""
    around = around or _real(settings)
    for name, check in _checks(settings, around).items():
        try:
            yield from check()
        except Exception as err:  # a check that fails must not keep the others from being made
            log.debug("the check of %s failed", name, exc_info=True)
            yield fail(name, f"this could not be checked: {type(err).__name__}: {err}")


def _checks(settings: AgentSettings, around: Surroundings) -> dict[str, Callable[[], Iterator[Finding]]]:
    now = around.wall()
    broker, running = settings.broker, is_running(settings.state_dir)
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "clock": lambda: check_clock(wall=now, kernel_state=kernel_clock_state, needs_date=broker.ca_file is not None),
        "disk": lambda: check_disk(
            settings.state_dir, spool_bytes=settings.spool.max_bytes, sysfs=_SYS, mounts=_MOUNTS
        ),
        "certificate": lambda: check_certificates(broker, now=now),
        "broker": lambda: check_broker(
            broker,
            place="broker",
            topics=(settings.site, settings.device),
            connect=around.connector(broker),
            now=now,
        ),
    }
    for place, other in other_brokers(settings):
        checks[place] = _other_broker(place, other, around, now)
    for name, task in settings.tasks.items():
        folder = settings.state_dir / "tasks" / name
        checks[f"model {name}"] = _model(name, task.bundle, folder, settings)
    return {
        **checks,
        "accelerators": lambda: check_accelerators(settings.execution),
        "sensors": lambda: check_sensors(around.sense(), settings.pressure),
        "sources": lambda: check_sources(settings),
        "local server": lambda: check_server(settings.server, running=running),
    }


def _other_broker(
    place: str, broker: BrokerSettings, around: Surroundings, now: float
) -> Callable[[], Iterator[Finding]]:
    def check() -> Iterator[Finding]:
        yield from check_certificates(broker, now=now)
        yield from check_broker(broker, place=place, topics=None, connect=around.connector(broker), now=now)

    return check


def _model(name: str, bundle: Path, folder: Path, settings: AgentSettings) -> Callable[[], Iterator[Finding]]:
    return lambda: check_model(name, bundle, task_folder=folder, execution=settings.execution)


def _real(settings: AgentSettings) -> Surroundings:
    from edge_agent.host.resources import Sensors

    folder = next(path for path in (settings.state_dir, *settings.state_dir.parents) if path.is_dir())
    sensors = Sensors(settings.pressure, folder)
    return Surroundings(connector, lambda: sensors.read(link_up=True, round_trip_s=None))
