"""Records on their way from the thread that made them to the event loop that sends them."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from edge_agent.sinks.records import Record

log = logging.getLogger(__name__)

# The loop looks again so often before it goes to sleep: a steady stream costs its makers no call that wakes it.
_LINGER_S = 0.05


class Handover:
    """A bounded queue: `put` from any thread, the rest from one task. When it is full the oldest goes, said once.

    Attributes:
        dropped: records that were lost so far.
    """

    def __init__(self, name: str, *, max_queued: int, linger_s: float = _LINGER_S) -> None:
        """`name`: for the log, where the records go."""
        self.dropped = 0
        self._name, self._max_queued, self._linger_s = name, max_queued, linger_s
        self._queue: deque[Record] = deque()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()
        self._asleep = False
        self._told_of = 0

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, record: Record) -> None:
        """Hand over a record; never blocks."""
        with self._lock:
            self._queue.append(record)
            first = self._shorten()
            wake, self._asleep = self._asleep, False
        if first:
            self._say()
        if wake and self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended: the agent is closing
                self._loop.call_soon_threadsafe(self._news.set)

    async def take(self, limit: int) -> list[Record]:
        """The oldest records, at least one; waits for it."""
        self._loop = asyncio.get_running_loop()
        lingered = False
        while True:
            with self._lock:
                taken = self._pop(limit)
                if not taken and lingered:
                    self._news.clear()
                    self._asleep = True
            if taken:
                return taken
            self._caught_up()
            if lingered:
                await self._news.wait()
            else:
                await asyncio.sleep(self._linger_s)
            lingered = not lingered

    def take_now(self, limit: int) -> list[Record]:
        """The oldest records; empty when there is none."""
        with self._lock:
            return self._pop(limit)

    def put_back(self, records: Sequence[Record]) -> None:
        """Records that could not be sent, in front of all others, as far as there is room."""
        with self._lock:
            self._queue.extendleft(reversed(records))
            first = self._shorten()
        if first:
            self._say()

    def lose(self, count: int) -> None:
        """Count records that nobody wants."""
        with self._lock:
            self.dropped += count

    def _pop(self, limit: int) -> list[Record]:
        return [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]

    def _shorten(self) -> bool:
        """Drop what is too much; whether it is the first time since the queue was empty."""
        too_many = len(self._queue) - self._max_queued
        if too_many <= 0:
            return False
        for _ in range(too_many):
            self._queue.popleft()
        first = self.dropped == self._told_of
        self.dropped += too_many
        return first

    def _say(self) -> None:
        log.warning("%d records wait for %s: the oldest are dropped from now on", self._max_queued, self._name)

    def _caught_up(self) -> None:
        if self.dropped > self._told_of:
            log.info("%s has caught up; %d records were lost", self._name, self.dropped - self._told_of)
        self._told_of = self.dropped
