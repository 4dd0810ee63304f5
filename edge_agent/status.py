"""What a device runs and what waits on it, read from its state folder without disturbing a running agent."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from edge_agent.day import Day
from edge_agent.ledger import Contact
from edge_agent.settings import AgentSettings
from edge_agent.spool import shifts
from edge_agent.updates.slots import Slots


def read_status(
    config: Path, overrides: Sequence[str] = (), *, wall: Callable[[], float] = time.time
) -> dict[str, Any]:
    """A JSON-ready picture of the device.

    Raises:
        SettingsError: the settings cannot be used.
    """
    settings = AgentSettings.read(config, overrides=overrides)
    saved = _saved(settings.state_dir / "ledger.json")
    return {
        "site": settings.site,
        "device": settings.device,
        "broker": settings.broker.address,
        "running": is_running(settings.state_dir),
        "tasks": {name: _task(settings.state_dir / "tasks" / name) for name in settings.tasks},
        "spool": _spool(settings.state_dir / "spool" / "spool.db", wall()),
        "bytes": _bytes(saved, settings.ledger.max_bytes_per_day, wall),
        "contacts": _contacts(saved, wall()),
        "counts": saved,
    }


def is_running(state_dir: Path) -> bool | None:
    """Whether an agent holds the state folder; None: this user may not look, which root may."""
    try:
        descriptor = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        # Shared, and let go at once: an agent that starts in this very moment is told that another runs.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return None
    finally:
        os.close(descriptor)
    return False


def _task(folder: Path) -> dict[str, str | None]:
    pointer = Slots(folder).pointer() if folder.is_dir() else None
    if pointer is None:
        return {"version": None, "slot": None, "previous": None}
    previous = pointer.previous.version if pointer.previous else None
    return {"version": pointer.version, "slot": pointer.slot.value, "previous": previous}


def _spool(file: Path, now: float) -> dict[str, int | float | str | None]:
    if not file.exists():
        return {"items": 0, "bytes": 0, "oldest_age_s": None}
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as database:
            items, size = database.execute("SELECT COUNT(*), IFNULL(SUM(length), 0) FROM items").fetchone()
            oldest = shifts.oldest_s(database)
    except sqlite3.Error as err:
        return {"error": f"{file} cannot be read: {err}"}
    return {"items": items, "bytes": size, "oldest_age_s": None if oldest is None else max(0.0, now - oldest)}


def _saved(file: Path) -> Any:
    """The ledger as the agent saved it last, at most a minute ago while it runs."""
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}


def _contacts(saved: Any, now: float) -> dict[str, float | None]:
    """Seconds since each, by the device's clock; None: never."""
    found = saved.get("contacts") if isinstance(saved, dict) else None
    times = found if isinstance(found, dict) else {}
    return {
        f"{contact.value}_s_ago": max(0.0, now - at_s) if isinstance(at_s := times.get(contact.value), float) else None
        for contact in Contact
    }


def _bytes(saved: Any, cap: int | None, wall: Callable[[], float]) -> dict[str, Any]:
    try:
        today = Day(saved["day"], wall=wall).today()
        purposes = dict(saved["bytes"])
    except (KeyError, ValueError, TypeError):
        today, purposes = 0, {}
    return {"purposes": purposes, "today": today, "max_per_day": cap}
