"""One look at the running demo, for the screen: what the devices said and what the service says, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cloud_service.demo.journal import DeviceJournal


@dataclass(frozen=True, slots=True)
class DeviceLine:
    """A device's row; None where there is nothing to say yet."""

    name: str
    version: str
    samples: int
    offload_rate: float | None
    agreement: float | None
    waiting: int


@dataclass(frozen=True, slots=True)
class Bar:
    """A training stage: `done` of `total`."""

    stage: str
    done: int
    total: int
    message: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything the screen shows."""

    seconds: float
    doing: str
    devices: tuple[DeviceLine, ...] = ()
    stored: int = 0
    answered: int = 0
    bars: tuple[Bar, ...] = ()
    rollout: tuple[tuple[str, str], ...] = field(default=())


def look(
    journals: Sequence[DeviceJournal],
    *,
    seconds: float,
    doing: str,
    store: dict[str, Any],
    job: dict[str, Any] | None,
    deployments: Sequence[dict[str, Any]],
) -> Snapshot:
    """Put one together from the journals and the service's own words (samples summary, job, deployments)."""
    lines = tuple(
        DeviceLine(
            name=journal.device.name,
            version=journal.version,
            samples=len(journal.answers),
            offload_rate=journal.offload_rate,
            agreement=journal.agreement,
            waiting=journal.unanswered(),
        )
        for journal in journals
    )
    progress: dict[str, Any] = job["progress"] if job else {}
    return Snapshot(
        seconds=seconds,
        doing=doing,
        devices=lines,
        stored=store.get("total", 0),
        answered=store.get("answered", 0),
        bars=tuple(Bar(stage, step["done"], step["total"], step["message"]) for stage, step in progress.items()),
        rollout=tuple((row["device"], row["state"]) for row in deployments),
    )
