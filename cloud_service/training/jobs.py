"""Training jobs: queued in the database, by people and by triggers, and run in child processes.

A job is a folder: what the run needs is laid into it (request.json last), `cloud_service.training.pipeline` works in it
and leaves its report and candidate there. Each stage's result is a file, so a job that was cut off is started again on
its folder and goes on where it was. Only the replica that leads calls `run`; each of them queues, shows and cancels.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cloud_service.errors import Conflict, NotFound, StoreError
from cloud_service.notices import Outage
from cloud_service.settings import ServedTask
from cloud_service.storage.models import Job, JobState
from cloud_service.training.child import COMMAND, LOG
from cloud_service.training.job_folder import remove, superfluous
from cloud_service.training.job_table import WAITING
from cloud_service.training.job_work import JobParts, JobWork
from cloud_service.training.settings import JobsSettings
from cloud_service.training.triggers import Decision, Seen, Standing, Trigger, TriggerRules, decide
from shared.errors import StorageFull

log = logging.getLogger(__name__)

# How often the queue is looked into, and how often the triggers are.
_POLL_S, _LOOK_S = 1.0, 5.0


@dataclass(frozen=True, slots=True)
class Judged:
    """How a task's triggers stand."""

    task: str
    decision: Decision
    seen: Seen


class Jobs:
    """Queues and runs training jobs, one of a task at a time.

    Args:
        tasks: what may be trained.
        folder: each job gets a folder in it.
        command: what is run with a job's folder as its last argument.
        instance: this replica's name.
    """

    def __init__(
        self,
        parts: JobParts,
        *,
        tasks: Mapping[str, ServedTask],
        folder: Path,
        settings: JobsSettings | None = None,
        command: Sequence[str] = COMMAND,
        instance: str = "",
    ) -> None:
        self._table = parts.table
        self._sightings = parts.sightings
        self._tasks = tasks
        self._folder = folder
        self._settings = settings or JobsSettings()
        self._instance = instance
        self._work = JobWork(parts, tasks=tasks, folders=folder, command=command, instance=instance)
        self._news = asyncio.Event()
        self._running: dict[str, tuple[Job, asyncio.Task[None]]] = {}
        self._stood: dict[str, tuple[Standing, Trigger | None]] = {}
        self._outage = Outage(log, "training jobs go on")

    async def submit(self, task: str, *, seed: int | None = None) -> Job:
        """Queue a job.

        Raises:
            NotFound: the service does not serve the task.
            Conflict: too many of its jobs wait already.
        """
        definition = self._tasks.get(task)
        if definition is None:
            raise NotFound(f"no task {task!r}; the service serves: {', '.join(sorted(self._tasks)) or 'none'}")
        seed = definition.training.seed if seed is None else seed
        return await self._queue(definition, seed=seed, trigger=Trigger.MANUAL, reason="by hand", last_sample=0)

    async def all(self, *, task: str | None = None, limit: int = 100) -> list[Job]:
        """Jobs, newest first."""
        return await self._table.all(task=task, limit=limit)

    async def get(self, job_id: str) -> Job:
        """One job; raises `NotFound` when there is none of that id."""
        return await self._table.get(job_id)

    async def log_file(self, job_id: str) -> tuple[Job, Path]:
        """A job and its log, which is written while it runs; a job that waits has none yet.

        Raises:
            NotFound: there is no such job, or its folder is not here.
        """
        row = await self._table.get(job_id)
        file = self._folder / row.id / LOG
        if not file.exists() and row.attempts > 0:
            elsewhere = row.instance not in ("", self._instance)
            where = f"it lies with replica {row.instance}: ask that one" if elsewhere else "its folder was removed"
            raise NotFound(f"the log of job {job_id} is not here: {where}")
        return row, file

    async def cancel(self, job_id: str) -> Job:
        """End a job that has not ended; return when its process is gone.

        Raises:
            NotFound: there is none of that id.
            Conflict: it has ended.
        """
        row = await self._table.get(job_id)
        if row.state not in WAITING:
            raise Conflict(f"job {job_id} has ended already: {row.state}")
        await self._table.end(job_id, JobState.CANCELLED, "cancelled")
        for running, work in list(self._running.values()):
            if running.id == job_id:
                work.cancel()
                await asyncio.wait([work])
        log.info("job %s: cancelled", job_id)
        return await self._table.get(job_id)

    async def judge(self, task: str | None = None) -> list[Judged]:
        """How each task's triggers stand now; nothing is queued.

        Raises:
            NotFound: the service does not serve the task.
        """
        if task is not None and task not in self._tasks:
            raise NotFound(f"no task {task!r}; the service serves: {', '.join(sorted(self._tasks)) or 'none'}")
        return [(await self._judged(name))[0] for name in self._tasks if task in (None, name)]

    async def run(self) -> None:
        """Run jobs until cancelled; a job that runs then stays `running` and is started again next time."""
        looked_at = float("-inf")
        clock = asyncio.get_running_loop().time
        try:
            await self._tidy()
            while True:
                self._news.clear()
                try:
                    if clock() - looked_at >= _LOOK_S:
                        looked_at = clock()
                        await self.trigger()
                    await self._end_cancelled()
                    await self._start()
                    self._outage.end()
                except (StorageFull, StoreError) as err:
                    self._outage.begin(f"training jobs wait: {err}")
                # Not wait_for, which loses a cancellation that comes together with news (until Python 3.12).
                with suppress(TimeoutError):
                    async with asyncio.timeout(_POLL_S):
                        await self._news.wait()
        finally:
            works = [work for _, work in self._running.values()]
            for work in works:
                work.cancel()
            await asyncio.gather(*works, return_exceptions=True)
            self._running.clear()

    async def trigger(self) -> None:
        """Queue a job for each task that is due; say once what holds one back.

        Raises:
            StoreError, StorageFull: the database failed.
        """
        for name, task in self._tasks.items():
            if not rules_of(task).automatic:
                continue
            judged, newest = await self._judged(name)
            decision = judged.decision
            now = (decision.standing, decision.trigger)
            if decision.standing is Standing.HELD and self._stood.get(name) != now:
                log.info("task %s: no job yet: %s", name, decision.reason)
            self._stood[name] = now
            if decision.standing is Standing.DUE and decision.trigger is not None:
                reason, seed = decision.reason, task.training.seed
                await self._queue(task, seed=seed, trigger=decision.trigger, reason=reason, last_sample=newest)

    async def _judged(self, name: str) -> tuple[Judged, int]:
        rules = rules_of(self._tasks[name])
        seen, newest = await self._sightings.see(name, rules)
        return Judged(name, decide(rules, seen), seen), newest

    async def _queue(self, task: ServedTask, *, seed: int, trigger: Trigger, reason: str, last_sample: int) -> Job:
        row = await self._table.add(task.name, seed=seed, trigger=trigger.value, reason=reason, last_sample=last_sample)
        log.info("job %s: task %s is queued: %s", row.id, task.name, reason)
        self._news.set()
        return row

    async def _start(self) -> None:
        """Start what is next, as far as jobs may run side by side."""
        while len(self._running) < self._settings.side_by_side:
            row = await self._table.next([name for name in self._tasks if name not in self._running])
            if row is None:
                return
            work = asyncio.create_task(self._one(row), name=f"job-{row.id}")
            self._running[row.task] = (row, work)

    async def _one(self, row: Job) -> None:
        try:
            await self._work.run(row)
            await self._tidy()
        finally:
            self._running.pop(row.task, None)
            self._news.set()

    async def _end_cancelled(self) -> None:
        """End jobs that somebody cancelled at another replica, or that another replica took."""
        for row, work in list(self._running.values()):
            now = await self._table.get(row.id)
            if now.state == JobState.CANCELLED.value or now.attempts > row.attempts + 1:
                work.cancel()
                await asyncio.wait([work])

    async def _tidy(self) -> None:
        """Delete the folders that are kept no longer."""
        try:
            ids = superfluous(await self._table.ended(), keep=self._settings.keep_folders)
        except StoreError as err:
            self._outage.begin(f"jobs' folders are not tidied: {err}")
            return
        if count := await asyncio.to_thread(remove, self._folder, ids):
            log.info("removed %d old jobs' folders: [jobs] keep_folders is %d", count, self._settings.keep_folders)


def rules_of(task: ServedTask) -> TriggerRules:
    """A task's rules; `training.min_samples` is the older name of `trigger.new_samples`."""
    rules = task.trigger
    if rules.new_samples or not task.training.min_samples:
        return rules
    return rules.model_copy(update={"new_samples": task.training.min_samples})
