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
from enum import Enum, auto

from cloud_service.answering import Answering, Counts, Work
from cloud_service.errors import NotFound, StoreError
from cloud_service.storage.database import utc_now
from cloud_service.storage.models import Sample
from cloud_service.storage.samples import SampleStore
from shared.errors import FrameError

log = logging.getLogger(__name__)

# How often room for one is looked for.
_POLL_S = 0.1


class _Fate(Enum):
    """What becomes of a sample without a verdict."""

    ADOPTED = auto()
    LATER = auto()
    NEVER = auto()


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
        # Up to here there is none that may be answered yet. A verdict that cannot be stored is asked for once more.
        self._settled = 0
        self._lost: set[int] = set()
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
        at, settled = self._settled, True
        while rows := await self._samples.unanswered(after=at, limit=self._batch):
            old = [row for row in rows if row.stored_at <= before]
            for row in old:
                if self._over:
                    break
                fate = await self._adopted(row)
                total += fate is _Fate.ADOPTED
                settled = settled and fate is _Fate.NEVER
                at = row.number
                if settled:
                    self._settled = at
            if len(old) < len(rows) or self._over:
                break
        if total:
            self._counts.adopted += total
            log.info("%d stored samples had no verdict yet and are answered now", total)

    async def _room(self) -> None:
        while self._answering.room() <= 0 and not self._over:
            await self._sleep(_POLL_S)

    async def _adopted(self, row: Sample) -> _Fate:
        if row.task not in self._tasks or row.number in self._lost:
            return _Fate.NEVER
        await self._room()
        if self._answering.has(row.id):
            return _Fate.LATER
        try:
            tensor = await self._samples.tensor(row)
        except StoreError as err:
            log.debug("sample %s cannot be answered now: %s", row.id, err)
            return _Fate.LATER
        except (NotFound, FrameError) as err:
            self._lost.add(row.number)
            log.error("sample %s cannot be answered: %s", row.id, err)
            return _Fate.NEVER
        if self._over:
            return _Fate.LATER
        self._answering.begin(Work(row.id, row.device, row.task, tensor, self._clock(), stored=True, audit=True))
        return _Fate.ADOPTED
