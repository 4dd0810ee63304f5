"""The outside of a source: an agent that writes down what it is told, a camera and a microphone without hardware."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import numpy as np

from edge_agent.sources.context import SourceContext
from edge_agent.sources.microphone import MicrophoneLost
from shared.errors import SampleError
from shared.manifest import TensorSpec
from shared.mqtt import BrokerSettings, Connection, Identity
from tests.sim.broker import SimulatedBroker


class Watched:
    """A source's surroundings; `context` is what the source gets."""

    def __init__(self, shape: tuple[int, ...] = (2, 2), dtype: str = "uint8", *, thin: int = 1) -> None:
        self.spec = TensorSpec(shape=shape, dtype=dtype)
        self.thin = thin
        self.skipped = self.overrun = self.waited = 0
        self.refused: list[str] = []
        self.changed = threading.Condition()
        self.context = SourceContext(
            task="digits",
            name="source-0",
            spec=lambda: self.spec,
            broker=BrokerSettings(),
            client="edge-plant-cam-digits",
            thin=lambda: self.thin,
            skipped=lambda count: self._add("skipped", count),
            overrun=lambda count: self._add("overrun", count),
            waited=lambda count: self._add("waited", count),
            refused=self._refuse,
        )

    def wait_until(self, condition: Callable[[], bool], *, timeout_s: float = 10.0) -> None:
        """Until something that this was told makes it true."""
        with self.changed:
            assert self.changed.wait_for(condition, timeout_s), "it did not happen"

    def _add(self, name: str, count: int) -> None:
        with self.changed:
            setattr(self, name, getattr(self, name) + count)
            self.changed.notify_all()

    def _refuse(self, err: SampleError) -> None:
        with self.changed:
            self.refused.append(str(err))
            self.changed.notify_all()


class SimulatedCamera:
    """Gives its frames and then none; `closed` when it was closed.

    Args:
        gate: after the first frame, this is waited for.
    """

    def __init__(self, frames: list[np.ndarray], *, gate: threading.Event | None = None) -> None:
        self.frames, self.gate = list(frames), gate
        self.decoded = self.passed = 0
        self.closed = False

    def read(self) -> np.ndarray | None:
        if not self.frames:
            return None
        if self.decoded and self.gate:
            self.gate.wait(10)
        self.decoded += 1
        return self.frames.pop(0)

    def skip(self) -> bool:
        if not self.frames:
            return False
        self.passed += 1
        self.frames.pop(0)
        return True

    def close(self) -> None:
        self.closed = True


class SimulatedMicrophone:
    """Plays `sound` [samples, channels] and is then pulled out.

    Args:
        overflows: before each of these reads, sound was lost.
        gate: after the first read, this is waited for.
    """

    def __init__(
        self, sound: np.ndarray, *, overflows: tuple[int, ...] = (), gate: threading.Event | None = None
    ) -> None:
        self.sound, self.overflows, self.gate = sound, overflows, gate
        self.reads = 0
        self.closed = False

    def read(self, frames: int) -> tuple[np.ndarray, bool]:
        if not len(self.sound):
            raise MicrophoneLost("the microphone stopped: simulated")
        if self.reads and self.gate:
            self.gate.wait(10)
        now, self.sound = self.sound[:frames], self.sound[frames:]
        self.reads += 1
        return now, self.reads - 1 in self.overflows

    def close(self) -> None:
        self.closed = True


class Station:
    """A simulated broker in the source's own event loop; a test tells it things from outside."""

    def __init__(self) -> None:
        self.broker = SimulatedBroker()
        self.identities: list[str] = []
        self.loop: asyncio.AbstractEventLoop | None = None
        self.subscribed = threading.Event()

    @asynccontextmanager
    async def connect(self, identity: Identity) -> AsyncIterator[Connection]:
        self.identities.append(identity.client_id)
        self.loop = asyncio.get_running_loop()
        async with self.broker.connect(identity) as connection:
            await connection.subscribe([])
            self.loop.call_soon(self.subscribed.set)
            yield connection

    def tell(self, what: Callable[..., object], *args: object) -> None:
        """Call something of the broker in its own loop."""
        assert self.subscribed.wait(5)
        assert self.loop
        self.loop.call_soon_threadsafe(lambda: what(*args))
