"""Gathers what the triggers decide by: a task's jobs, its new samples, its incidents and its estimated agreement."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import select

from cloud_service.estimates.estimator import Estimator
from cloud_service.storage.database import Database
from cloud_service.storage.models import Sample
from cloud_service.storage.samples import SampleStore
from cloud_service.storage.values import FINAL_LABEL
from cloud_service.training.job_table import History, JobTable
from cloud_service.training.triggers import Agreed, Drift, Seen, TriggerRules, trained

# Open incidents that a decision looks at: the newest one is named, the others are counted.
_INCIDENTS = 20


class Sightings:
    """Reads; changes nothing, so any replica may.

    Args:
        period_s: how far back the estimates look.
    """

    def __init__(
        self, database: Database, table: JobTable, samples: SampleStore, estimator: Estimator, *, period_s: float
    ) -> None:
        self._database = database
        self._table = table
        self._samples = samples
        self._estimator = estimator
        self._period = timedelta(seconds=period_s)

    async def see(self, task: str, rules: TriggerRules) -> tuple[Seen, int]:
        """What there is of a task now, and the number of its newest sample.

        Raises:
            StoreError: the database failed.
        """
        history = await self._table.history(task)
        count, newest = await self._samples.count_answered(task, after=history.last_sample)
        now = self._table.now()
        seen = Seen(
            now=now,
            waiting=f"job {history.waiting.id} is {history.waiting.state}" if history.waiting else "",
            new_samples=count,
            ripe_at=await self._ripe(task, rules, history) if count >= rules.min_new_samples else None,
            queued_at=history.queued_at,
            ended_at=history.ended_at,
            good_at=history.good_at,
            setbacks=history.setbacks,
            failed=history.failed,
            trained_s=trained(history.spells, now),
            drifts=await self._drifts(task) if rules.on_drift else (),
            agreed=self._agreed(task),
        )
        return seen, newest

    async def _ripe(self, task: str, rules: TriggerRules, history: History) -> datetime | None:
        where = (Sample.task == task, Sample.number > history.last_sample, FINAL_LABEL.is_not(None))
        stored = select(Sample.stored_at).where(*where).order_by(Sample.number)
        async with self._database.reading() as session:
            return await session.scalar(stored.offset(rules.min_new_samples - 1).limit(1))

    async def _drifts(self, task: str) -> list[Drift]:
        found = await self._estimator.incidents.all(task=task, is_open=True, limit=_INCIDENTS)
        return [Drift(incident.opened_at, incident.sentence) for incident in found]

    def _agreed(self, task: str) -> Agreed | None:
        current = self._estimator.current
        if current.at is None:
            return None
        for estimate in current.estimates:
            if estimate.task == task and estimate.device is None:
                final = estimate.agreement.final
                return Agreed(final.low, final.high, estimate.agreement.audits, current.at - self._period)
        return None
