"""What is on its way to the broker and not acknowledged: a bounded number of bytes, each message a task of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self


class Flights:
    """Tasks of one connection; all end with it. Belongs to its event loop.

    Args:
        max_count, max_bytes: under way at once; one that is larger than `max_bytes` goes alone.
    """

    def __init__(self, *, max_count: int, max_bytes: int) -> None:
        self._max_count, self._max_bytes = max_count, max_bytes
        self._under_way: dict[asyncio.Task[None], int] = {}
        self._bytes = 0
        self._landed = asyncio.Event()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def room(self, size: int) -> None:
        """Wait until there is room. Everybody else gets a turn first, or a flood would starve them."""
        await asyncio.sleep(0)
        while self._under_way and (len(self._under_way) >= self._max_count or self._bytes + size > self._max_bytes):
            self._landed.clear()
            await self._landed.wait()

    def begin(self, name: str, flight: Coroutine[Any, Any, None], *, size: int) -> None:
        """Start, whether or not there is room."""
        task = asyncio.create_task(flight, name=name)
        self._under_way[task] = size
        self._bytes += size
        task.add_done_callback(self._land)

    async def failure(self) -> None:
        """Wait for a flight that fails, for ever if need be, and raise what it raised."""
        await asyncio.shield(self._failed)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        self._failed.cancel()

    def _land(self, task: asyncio.Task[None]) -> None:
        self._bytes -= self._under_way.pop(task)
        self._landed.set()
        if not task.cancelled() and (error := task.exception()) is not None and not self._failed.done():
            self._failed.set_exception(error)
