"""The cloud's way of a sample, run on a simulated broker and clock: `async with running_ingest(parts…) as ingest`."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

import numpy as np

from cloud_service.ingest import Ingest, Parts
from cloud_service.settings import IngestSettings
from cloud_service.storage.values import Answer
from cloud_service.teacher.batcher import Batcher, Priority
from shared.mqtt import BrokerSettings, keep_connected
from shared.uncertainty import softmax
from tests.sim.broker import SimulatedBroker
from tests.sim.clock import SimulatedClock

INSTANCE = "main"
CONTROL = f"edgeloop-demo-{INSTANCE}"
SAMPLES = f"{CONTROL}-samples"


class TeacherModel:
    """Reads the label off the sample; fails on label 9; can be held."""

    def __init__(self) -> None:
        self.calls = 0
        self.free = threading.Event()
        self.free.set()

    def __call__(self, batch):
        self.calls += 1
        assert self.free.wait(20)
        logits = batch.reshape(len(batch), -1)[:, :10].astype(np.float32)
        if logits.argmax(axis=1).max() == 9:
            raise ValueError("nine is too hard")
        return logits


class BatchedTeacher:
    """A teacher on the test's clock."""

    def __init__(self, model: TeacherModel, clock: SimulatedClock) -> None:
        self._batcher = Batcher(model, name="teacher-digits", clock=clock)

    async def run(self) -> None:
        await self._batcher.run()

    async def answer(self, tensor, *, priority=Priority.TRAINING, deadline_s=None) -> Answer:
        row = await self._batcher.submit(tensor, priority=priority, deadline_s=deadline_s)
        return Answer(softmax(row), "t1")


@asynccontextmanager
async def running_ingest(
    broker: SimulatedBroker,
    parts: Parts,
    clock: SimulatedClock,
    *,
    settings: IngestSettings,
    instance: str = INSTANCE,
) -> AsyncIterator[Ingest]:
    """An ingest that is connected, and its teachers; all ends with the block, and nothing of it may have failed."""
    ingest = Ingest(
        parts, settings, connect=broker.connect, site="demo", instance=instance, clock=clock, sleep=clock.sleep
    )
    connected = keep_connected(
        broker.connect, ingest.identity, ingest.session, settings=BrokerSettings(), rng=Random(0), sleep=_no_wait
    )
    teachers = [teacher.run() for teacher in parts.teachers.values()]
    tasks = [asyncio.create_task(part) for part in (*teachers, ingest.run(), connected)]
    await until(lambda: parts.downlink.connected)
    try:
        yield ingest
    finally:
        # A query that is cancelled would answer to an event loop that has ended meanwhile.
        await until(lambda: all(task.get_name() != "desired" for task in asyncio.all_tasks()))
        for each in tasks:
            each.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results), results


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Let everything else run until something is true; TimeoutError is a failed test."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0)


async def tick(clock: SimulatedClock, seconds: float = 0.3) -> None:
    """Let the ingest's tick (receipts, retries) run once."""
    await until(lambda: clock.sleeping > 0)
    clock.advance(seconds)
    await asyncio.sleep(0)
    await until(lambda: clock.sleeping > 0)


async def _no_wait(_seconds: float) -> None:
    await asyncio.sleep(0)
