"""The agent's own thread: an event loop that runs named tasks until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

log = logging.getLogger(__name__)


class Background:
    """Runs `tasks` (name → function that gives a coroutine) side by side in one thread.

    Args:
        died: called in that thread when a task raised what it should not have; all tasks have ended then.
    """

    def __init__(
        self, tasks: Mapping[str, Callable[[], Coroutine[Any, Any, None]]], *, died: Callable[[], None]
    ) -> None:
        self._tasks = tasks
        self._died = died
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._live, name="edge-agent", daemon=True)
        self._main: asyncio.Task[None] | None = None
        self._farewell: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def is_current_thread(self) -> bool:
        """Whether the caller runs in the agent's own thread."""
        return threading.current_thread() is self._thread

    def stop(self, farewell: Callable[[], Awaitable[None]], *, timeout_s: float) -> None:
        """Run `farewell` for at most half of `timeout_s`, then end the tasks and the thread."""
        if not self._thread.is_alive():
            self._loop.close()
            return
        with suppress(RuntimeError):  # the loop has just ended by itself
            self._loop.call_soon_threadsafe(self._begin_to_wind_down, farewell, timeout_s / 2)
        self._thread.join(timeout_s)

    def _live(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._main = self._loop.create_task(self._run_all(), name="agent")
        try:
            self._loop.run_until_complete(self._main)
        except asyncio.CancelledError:
            log.debug("the agent's loop was stopped")
        except Exception:  # whatever it was, nothing is sent or updated from now on: say so and let the agent end
            log.exception("the agent's uplink and updates have ended; inference goes on, restart the agent")
            self._died()
        finally:
            self._loop.run_until_complete(_end_what_is_left())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _run_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for name, task in self._tasks.items():
                group.create_task(task(), name=name)

    def _begin_to_wind_down(self, farewell: Callable[[], Awaitable[None]], timeout_s: float) -> None:
        if self._main is not None and not self._main.done():
            self._farewell = self._loop.create_task(self._wind_down(farewell, timeout_s), name="farewell")

    async def _wind_down(self, farewell: Callable[[], Awaitable[None]], timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await farewell()
        except Exception as err:  # noqa: BLE001  # whatever keeps it from being sent, the last will says the same
            log.debug("no farewell: %s", err)
        if self._main is not None:
            self._main.cancel()


async def _end_what_is_left() -> None:
    """Cancel what libraries started beside our tasks: an MQTT client stopped while it connects leaves some."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


async def contained(what: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run what the uplink and the updates can do without: its fault is told, and ends nothing else."""
    try:
        await run()
    except Exception:  # whatever it was, samples and verdicts go on
        log.exception("%s has ended by a fault of its own; all else goes on, restart the agent to have it back", what)


async def every(interval_s: float, action: Callable[[], None]) -> None:
    """Call a blocking function in a worker thread, again and again."""
    while True:
        await asyncio.sleep(interval_s)
        await asyncio.to_thread(action)
