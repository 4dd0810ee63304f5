"""Groups samples for a model that is fed in batches; knows nothing of what runs the model.

The window is zero: whatever waits when the model becomes free goes in together, and a lone sample goes at once. On a
CPU larger batches gain little (at most 1.24× was measured), so the cap is small.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cloud_service.errors import TeacherError
from shared.codec import Array

log = logging.getLogger(__name__)

Infer = Callable[[Array], Array]


class Batcher:
    """Feeds one model, one batch at a time, in a thread of its own.

    Args:
        infer: [N, *shape] → [N, …]; may raise; is never called concurrently.
        max_batch: largest N.
        max_waiting: samples that may wait; `submit` waits for room beyond that.
    """

    def __init__(self, infer: Infer, *, name: str, max_batch: int = 8, max_waiting: int = 256) -> None:
        self._infer = infer
        self._name = name
        self._max_batch = max_batch
        self._waiting: asyncio.Queue[tuple[Array, asyncio.Future[Array]]] = asyncio.Queue(max_waiting)

    async def submit(self, sample: Array) -> Array:
        """One sample's output row.

        Raises:
            TeacherError: the model failed on this sample.
        """
        future: asyncio.Future[Array] = asyncio.get_running_loop().create_future()
        await self._waiting.put((sample, future))
        return await future

    async def run(self) -> None:
        """Feed the model until cancelled."""
        thread = ThreadPoolExecutor(1, thread_name_prefix=f"{self._name}-batch")
        try:
            while True:
                await self._answer(await self._next_batch(), thread)
        finally:
            # Waiting here for a batch under way would hold the whole event loop.
            thread.shutdown(wait=False, cancel_futures=True)

    async def _next_batch(self) -> list[tuple[Array, asyncio.Future[Array]]]:
        batch = [await self._waiting.get()]
        while len(batch) < self._max_batch and not self._waiting.empty():
            batch.append(self._waiting.get_nowait())
        return [(sample, future) for sample, future in batch if not future.done()]

    async def _answer(self, batch: list[tuple[Array, asyncio.Future[Array]]], thread: ThreadPoolExecutor) -> None:
        if not batch:
            return
        samples = [sample for sample, _ in batch]
        try:
            outputs = await asyncio.get_running_loop().run_in_executor(thread, self._checked, samples)
        except Exception as err:  # noqa: BLE001  # foreign code: whatever it raises fails its samples, never the service
            await self._failed(batch, thread, err)
            return
        for (_, future), output in zip(batch, outputs, strict=True):
            if not future.done():
                future.set_result(output)

    async def _failed(
        self, batch: list[tuple[Array, asyncio.Future[Array]]], thread: ThreadPoolExecutor, err: Exception
    ) -> None:
        """Find the sample that the model fails on: each alone, so that the others are answered."""
        if len(batch) > 1:
            for one in batch:
                await self._answer([one], thread)
            return
        _, future = batch[0]
        if not future.done():
            error = TeacherError(f"{self._name} failed on a sample: {err}")
            error.__cause__ = err
            future.set_exception(error)

    def _checked(self, samples: Sequence[Array]) -> Array:
        # Stored samples may be of another shape than the task has now: that fails them, one by one, not the service.
        outputs = self._infer(np.stack(samples))
        if len(outputs) != len(samples):
            raise RuntimeError(f"the model gave {len(outputs)} rows for {len(samples)} samples")
        return outputs
