"""Samples that were stored and never answered, because whoever had them ended: found by their age, and answered.

Replicas do not talk to each other. A sample that another one is answering now is younger than `after_s`; so an orphan
is what is older and has neither verdict nor failure. Two replicas that find the same orphan both ask the teacher, and
the first answer stands: that costs time, never a wrong row. So only the one that leads looks (`leader.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime, timedelta

from cloud_service.answering import Answering, Counts, Work
from cloud_service.errors import NotFound, StoreError
from cloud_service.storage.database import utc_now
from cloud_service.storage.models import Sample
from cloud_service.storage.samples import SampleStore
from shared.errors import FrameError

log = logging.getLogger(__name__)

# How often room for one is looked for.
_POLL_S = 0.1


class Orphans:
    """Adopts them.

    Args:
        tasks: that this service serves.
        after_s: older than this is an orphan.
        batch: rows read at once.
        now: wall time, as the store stamps it.
    """

    def __init__(
        self,
        samples: SampleStore,
        answering: Answering,
        *,
        tasks: Collection[str],
        counts: Counts,
        after_s: float,
        batch: int,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._samples = samples
        self._answering = answering
        self._tasks = tasks
        self._counts = counts
        self._after_s = after_s
        self._batch = batch
        self._clock = clock
        self._sleep = sleep
        self._now = now
        # What was looked at once is not looked at again: it is answered, or never will be.
        self._seen = 0
        self._over = False

    def leave(self) -> None:
        """Take up no more of them: the next service finds them."""
        self._over = True

    async def run(self) -> None:
        """Look for them until cancelled, as often as one can come of age."""
        while True:
            try:
                await self.adopt()
            except StoreError as err:
                log.debug("orphans cannot be looked for now: %s", err)
            await self._sleep(max(self._after_s, 1.0))

    async def adopt(self) -> None:
        """Answer those that are old enough.

        Raises:
            StoreError: the database failed.
        """
        before, total = self._now() - timedelta(seconds=self._after_s), 0
        while rows := await self._samples.unanswered(after=self._seen, limit=self._batch):
            old = [row for row in rows if row.stored_at <= before]
            for row in old:
                await self._room()
                if self._over:
                    break
                total += await self._adopted(row)
                self._seen = row.number
            if len(old) < len(rows) or self._over:
                break
        if total:
            self._counts.adopted += total
            log.info("%d stored samples had no verdict yet and are answered now", total)

    async def _room(self) -> None:
        while self._answering.room() <= 0 and not self._over:
            await self._sleep(_POLL_S)

    async def _adopted(self, row: Sample) -> bool:
        if row.task not in self._tasks or self._answering.has(row.id):
            return False
        try:
            tensor = await self._samples.tensor(row)
        except (NotFound, StoreError, FrameError) as err:
            log.error("sample %s cannot be answered: %s", row.id, err)
            return False
        if self._over:
            return False
        self._answering.begin(Work(row.id, row.device, row.task, tensor, self._clock(), stored=True, audit=True))
        return True
