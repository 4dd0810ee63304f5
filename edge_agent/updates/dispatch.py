"""Takes the cloud's wishes to the right task's updater, one update at a time, the newest wish winning."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from edge_agent.updates.updater import Updater
from shared.messages import Desired

log = logging.getLogger(__name__)

_MAX_UNKNOWN = 32


class UpdateDispatcher:
    """`want` notes a wish; `run` carries wishes out until cancelled."""

    def __init__(self, updaters: Mapping[str, Updater]) -> None:
        self._updaters = updaters
        self._wish: Desired | None = None
        self._news = asyncio.Event()
        self._unknown: set[str] = set()

    def want(self, desired: Desired) -> None:
        """Replace the wish; called in the agent's own thread."""
        self._wish = desired
        self._news.set()

    async def run(self) -> None:
        """Finish what a crash interrupted, then follow the wishes."""
        for updater in self._updaters.values():
            await updater.resume()
        while True:
            await self._news.wait()
            self._news.clear()
            wish, self._wish = self._wish, None
            if wish is not None:
                await self._follow(wish)

    async def _follow(self, wish: Desired) -> None:
        for task, target in wish.tasks.items():
            updater = self._updaters.get(task)
            if updater is not None:
                await updater.offer(target.bundle, wish.revision)
            elif task not in self._unknown and len(self._unknown) < _MAX_UNKNOWN:
                self._unknown.add(task)
                log.warning("the cloud wants a bundle for the task %r, which this device does not have", task)
