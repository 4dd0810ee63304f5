"""What has come in and was not read yet."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator

from shared.errors import ConnectionLost
from shared.mqtt.seam import Glance, Received

log = logging.getLogger(__name__)


class Inbox:
    """Of one connection and its event loop.

    Args:
        limit: messages that may wait; what comes on top of them is dropped, which is said once until they are read.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: deque[Received] = deque()
        self._news: asyncio.Future[None] | None = None
        self._glance: Glance | None = None
        self._full = False
        self._ended: str | None = None

    def watch(self, glance: Glance) -> None:
        """Show every message to `glance` first; what it takes does not wait."""
        self._glance = glance

    def put(self, message: Received) -> None:
        """A message came in."""
        if self._glance is not None and self._glance(message):
            return
        if len(self._waiting) >= self._limit:
            if not self._full:
                log.warning("%d messages wait to be read: what comes on top of them is dropped", self._limit)
            self._full = True
            return
        self._waiting.append(message)
        self._ring()

    def end(self, why: str) -> None:
        """Nothing more will come."""
        self._ended = why
        self._ring()

    async def messages(self) -> AsyncIterator[Received]:
        """What came and comes; then `ConnectionLost`."""
        while True:
            while self._waiting:
                yield self._waiting.popleft()
            if self._ended is not None:
                raise ConnectionLost(f"connection lost: {self._ended}")
            self._full = False
            self._news = asyncio.get_running_loop().create_future()
            await self._news

    def _ring(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
