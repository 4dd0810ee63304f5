"""Notices who hangs: whoever promised to be heard of again in time, and was not.

A part that only waits for work promises nothing, so an idle agent is well. Costs a store in a dictionary a promise.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Pulse:
    """Promises by name; thread-safe."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._due_s: dict[str, float] = {}

    def expect(self, name: str, within_s: float) -> None:
        """`name` will call `expect` or `rest` again within so many seconds."""
        self._due_s[name] = self._monotonic() + within_s

    def rest(self, name: str) -> None:
        """`name` has ended what it did, and promises nothing."""
        self._due_s.pop(name, None)

    def overdue(self) -> str | None:
        """Who is late, and by how much, in words; None: all are well."""
        now = self._monotonic()
        for name, due_s in list(self._due_s.items()):
            if now > due_s:
                return f"{name} should have been heard of {now - due_s:.0f} s ago"
        return None

    async def beat(self, name: str, *, every_s: float, within_s: float) -> None:
        """Vouch for the event loop that runs this, until cancelled."""
        try:
            while True:
                self.expect(name, within_s)
                await asyncio.sleep(every_s)
        finally:
            self.rest(name)
