"""A few threads for what blocks, and a limit to how much waits for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, TypeVar

from edge_agent.errors import Overloaded

T = TypeVar("T")


class Workers:
    """Belongs to one event loop.

    The threads are daemons, which the standard library's executors do not offer: an agent that is told to end does not
    wait for the verdict that a client waits for.
    """

    def __init__(self, *, threads: int, max_waiting: int) -> None:
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._live, name=f"edge-agent-server-{number}", daemon=True)
            for number in range(threads)
        ]
        self._limit = threads + max_waiting
        self._admitted = 0
        for thread in self._threads:
            thread.start()

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """A place for one request, from before its body is read: as many bodies are in memory as there are places.

        Raises:
            Overloaded: every place is taken.
        """
        if self._admitted >= self._limit:
            raise Overloaded(f"{self._limit} requests are under way: try again in a second")
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    async def run(self, work: Callable[[], T]) -> T:
        """The result of a blocking function."""
        future: Future[T] = Future()
        self._jobs.put((future, work))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Let what runs end by itself; what was cancelled before it began never does."""
        for _ in self._threads:
            self._jobs.put(None)

    def _live(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, work = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = work()
            except BaseException as err:  # noqa: BLE001  # it is raised where the result is waited for
                future.set_exception(err)
            else:
                future.set_result(result)
