"""Groups samples for a model that is fed in batches; knows nothing of what runs the model.

A lone sample that finds the model idle goes at once; whatever waits when the model becomes free goes in together. On a
CPU larger batches gain little (at most 1.24× was measured), so the cap is small and nobody waits for company there; on
a GPU a short `max_wait_s` fills the batches of a busy model.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, TypeVar

import numpy as np

from cloud_service.errors import Expired, TeacherError
from shared.codec import Array

log = logging.getLogger(__name__)

Row = TypeVar("Row")


class Priority(IntEnum):
    """Whose turn it is; the smaller the sooner."""

    WANTED = 0  # somebody waits for the verdict
    TRAINING = 1
    AUDIT = 2


# A sample's turn comes as if it had been submitted so much later. So what is wanted now overtakes the rest, and nothing
# is overtaken by what comes more than this after it: no priority starves another, however much of it there is.
_OVERTAKEN_FOR_S = {Priority.WANTED: 0.0, Priority.TRAINING: 2.0, Priority.AUDIT: 10.0}


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Row]):
    """A sample that waits; `expires`: on the batcher's clock."""

    sample: Array
    future: asyncio.Future[Row]
    expires: float


class Batcher(Generic[Row]):
    """Feeds one model, one batch at a time, in a thread of its own.

    Args:
        infer: [N, *shape] → N rows of any kind, one a sample; may raise; is never called concurrently.
        max_batch: largest N.
        max_waiting: samples that may wait; `submit` waits for room beyond that.
        max_wait_s: how long a batch that is not full waits for more after another one; never when the model was idle.
        clock: seconds, monotonic.

    Attributes:
        expired: how many samples were dropped because nobody waited for them any more.
    """

    def __init__(
        self,
        infer: Callable[[Array], Sequence[Row]],
        *,
        name: str,
        max_batch: int = 8,
        max_waiting: int = 256,
        max_wait_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.expired = 0
        self._infer = infer
        self._name = name
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._clock = clock
        self._room = asyncio.Semaphore(max_waiting)
        self._waiting: list[tuple[float, int, _Waiting[Row]]] = []
        self._submitted = 0
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    async def submit(
        self, sample: Array, *, priority: Priority = Priority.TRAINING, deadline_s: float | None = None
    ) -> Row:
        """One sample's row.

        Args:
            deadline_s: how long the answer is worth anything, from now; None: for ever.

        Raises:
            TeacherError: the model failed on this sample.
            Expired: its turn came after the deadline; the model was not asked.
        """
        now = self._clock()
        future: asyncio.Future[Row] = asyncio.get_running_loop().create_future()
        one = _Waiting(sample, future, float("inf") if deadline_s is None else now + deadline_s)
        await self._room.acquire()
        self._submitted += 1  # makes equal turns first come, first served
        heapq.heappush(self._waiting, (now + _OVERTAKEN_FOR_S[priority], self._submitted, one))
        self._news.set()
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

    async def _next_batch(self) -> list[_Waiting[Row]]:
        if self._waiting and self._max_wait_s:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._max_wait_s):
                    await self._until(self._max_batch)
        await self._until(1)
        return self._taken()

    async def _until(self, count: int) -> None:
        while len(self._waiting) < count:
            self._news.clear()
            await self._news.wait()

    def _taken(self) -> list[_Waiting[Row]]:
        """The next batch; what nobody waits for any more is dropped on the way."""
        now = self._clock()
        batch: list[_Waiting[Row]] = []
        while self._waiting and len(batch) < self._max_batch:
            *_, one = heapq.heappop(self._waiting)
            self._room.release()
            if one.future.done():
                continue
            if one.expires < now:
                self.expired += 1
                one.future.set_exception(Expired("its deadline passed before its turn came"))
                continue
            batch.append(one)
        return batch

    async def _answer(self, batch: Sequence[_Waiting[Row]], thread: ThreadPoolExecutor) -> None:
        if not batch:
            return
        samples = [one.sample for one in batch]
        try:
            rows = await asyncio.get_running_loop().run_in_executor(thread, self._checked, samples)
        except Exception as err:  # noqa: BLE001  # foreign code: whatever it raises fails its samples, never the service
            await self._failed(batch, thread, err)
            return
        for one, row in zip(batch, rows, strict=True):
            if not one.future.done():
                one.future.set_result(row)

    async def _failed(self, batch: Sequence[_Waiting[Row]], thread: ThreadPoolExecutor, err: Exception) -> None:
        """Find the sample that the model fails on: each alone, so that the others are answered."""
        if len(batch) > 1:
            for one in batch:
                await self._answer([one], thread)
            return
        future = batch[0].future
        if not future.done():
            error = TeacherError(f"{self._name} failed on a sample: {err}")
            error.__cause__ = err
            future.set_exception(error)

    def _checked(self, samples: Sequence[Array]) -> Sequence[Row]:
        # Stored samples may be of another shape than the task has now: that fails them, one by one, not the service.
        rows = self._infer(np.stack(samples))
        if len(rows) != len(samples):
            raise RuntimeError(f"the model gave {len(rows)} rows for {len(samples)} samples")
        return rows
