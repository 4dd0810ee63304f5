"""Finds out how the models run best after the agent has started, when it has long given its first answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from edge_agent.execution import child, proving
from edge_agent.execution.engine import Engine
from edge_agent.execution.loading import EngineLoader
from edge_agent.execution.proving import Spawn
from shared.errors import BundleError

log = logging.getLogger(__name__)

AFTER_S = 60.0
TIMEOUT_S = 600.0


class Running(Protocol):
    """What runs a task's engine: the pipeline."""

    @property
    def engine(self) -> Engine: ...

    def swap(self, engine: Engine) -> Any: ...


class QuietMoment:
    """Measures each task's model that nobody has measured here, and swaps in the engine that was chosen.

    Updates measure theirs with the self-test; what is left is the factory's model, and all of them after onnxruntime
    or the settings have changed.

    Args:
        tasks: task → what runs it.
        slot: gives the folder of a task's active slot; None: none is.
    """

    def __init__(
        self,
        load: EngineLoader,
        tasks: Mapping[str, Running],
        slot: Callable[[str], Path | None],
        *,
        after_s: float = AFTER_S,
        spawn: Spawn = child.spawned,
    ) -> None:
        self._load, self._tasks, self._slot = load, tasks, slot
        self._after_s, self._spawn = after_s, spawn

    async def run(self) -> None:
        """Wait, then take the tasks one by one."""
        await asyncio.sleep(self._after_s)
        for name, running in self._tasks.items():
            try:
                await self._take(name, running)
            except (BundleError, OSError) as err:
                log.warning("task %s: how its model runs best was not found out: %s", name, err)

    async def _take(self, name: str, running: Running) -> None:
        before, slot = running.engine, self._slot(name)
        settings = self._load.settings
        if slot is None or not proving.due(slot, settings):
            return
        await proving.find_out(slot, settings, timeout_s=TIMEOUT_S, spawn=self._spawn)
        if self._load.choice(slot) == before.choice:
            return
        engine = await asyncio.to_thread(self._load, slot, sha256=before.sha256)
        # An update may have come in between; its engine was measured with its self-test.
        if running.engine is before:
            running.swap(engine)
