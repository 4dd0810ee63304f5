"""What a device runs and what waits on it, read from its state folder without disturbing a running agent."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from edge_agent.settings import AgentSettings
from edge_agent.updates.slots import Slots


def read_status(config: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """A JSON-ready picture of the device.

    Raises:
        SettingsError: the settings cannot be used.
    """
    settings = AgentSettings.read(config, overrides=overrides)
    return {
        "site": settings.site,
        "device": settings.device,
        "broker": settings.broker.address,
        "tasks": {name: _task(settings.state_dir / "tasks" / name) for name in settings.tasks},
        "spool": _spool(settings.state_dir / "spool" / "spool.db"),
        "counts": _counts(settings.state_dir / "ledger.json"),
    }


def _task(folder: Path) -> dict[str, str | None]:
    pointer = Slots(folder).pointer() if folder.is_dir() else None
    if pointer is None:
        return {"version": None, "slot": None, "previous": None}
    previous = pointer.previous.version if pointer.previous else None
    return {"version": pointer.version, "slot": pointer.slot.value, "previous": previous}


def _spool(file: Path) -> dict[str, int | str]:
    if not file.exists():
        return {"items": 0, "bytes": 0}
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as database:
            items, size = database.execute("SELECT COUNT(*), IFNULL(SUM(length), 0) FROM items").fetchone()
    except sqlite3.Error as err:
        return {"error": f"{file} cannot be read: {err}"}
    return {"items": items, "bytes": size}


def _counts(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
