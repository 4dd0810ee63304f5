"""A monotonic clock that a test moves, and a sleep on it: no test waits for real time."""

from __future__ import annotations

import asyncio


class SimulatedClock:
    """Call it for the time in seconds, like `time.monotonic`; `sleep` takes the place of `asyncio.sleep`.

    With `runs=True` a sleep advances the clock by itself and returns at the next turn of the event loop. With
    `runs=False` it ends when `advance` has moved the clock far enough.

    Attributes:
        sleeps: the length of every sleep that was asked for, in order.
    """

    def __init__(self, start: float = 1_000.0, *, runs: bool = True) -> None:
        self.now = start
        self.runs = runs
        self.sleeps: list[float] = []
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        if self.runs or seconds <= 0:
            self.advance(max(seconds, 0.0))
            await asyncio.sleep(0)
            return
        sleeper = (self.now + seconds, asyncio.get_running_loop().create_future())
        self._sleepers.append(sleeper)
        try:
            await sleeper[1]
        finally:
            self._sleepers.remove(sleeper)

    @property
    def sleeping(self) -> int:
        """How many sleeps have not ended."""
        return len(self._sleepers)

    def advance(self, seconds: float) -> None:
        """Let time pass; sleeps that are over end at the next turn of the event loop."""
        if seconds < 0:
            raise ValueError("a monotonic clock does not go back")
        self.now += seconds
        for due, sleeper in self._sleepers:
            if due <= self.now and not sleeper.done():
                sleeper.set_result(None)
