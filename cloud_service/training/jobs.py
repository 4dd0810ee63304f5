"""Training jobs: queued in the database, run one at a time in a child process, their candidates imported and shipped.

A job is a folder: what the run needs is laid into it (request.json last), `cloud_service.training.pipeline` works in it
and leaves its report and candidate there. Each stage's result is a file, so a job that was cut off is started again on
its folder and goes on where it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloud_service.errors import Conflict, NotFound, StoreError
from cloud_service.fleet import Fleet
from cloud_service.notices import Outage
from cloud_service.registry.bundles import Registry
from cloud_service.rollouts.driver import Rollouts
from cloud_service.settings import RolloutMode, ServedTask
from cloud_service.storage.models import Job, JobState
from cloud_service.storage.samples import SampleStore
from cloud_service.training.child import COMMAND, failure, run_child
from cloud_service.training.job_folder import lay_out, read_report
from cloud_service.training.job_table import MAX_WAITING, WAITING, JobTable
from cloud_service.training.progress import Step
from cloud_service.training.request import CANDIDATE, REQUEST, TrainingRequest
from shared.errors import EdgeloopError, StorageFull

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
# How often new samples are counted, and how often a running job's progress is stored.
_POLL_S = 1.0
_PROGRESS_S = 0.25


@dataclass(frozen=True, slots=True)
class JobParts:
    """What jobs work with."""

    table: JobTable
    samples: SampleStore
    registry: Registry
    rollouts: Rollouts
    fleet: Fleet


class Jobs:
    """Runs training jobs, the oldest first, one at a time.

    Args:
        tasks: what may be trained.
        folder: each job gets a folder in it.
        command: what is run with a job's folder as its last argument.
    """

    def __init__(
        self, parts: JobParts, *, tasks: Mapping[str, ServedTask], folder: Path, command: Sequence[str] = COMMAND
    ) -> None:
        self._table = parts.table
        self._samples = parts.samples
        self._registry = parts.registry
        self._rollouts = parts.rollouts
        self._fleet = parts.fleet
        self._tasks = tasks
        self._folder = folder
        self._command = command
        self._news = asyncio.Event()
        self._current: tuple[str, asyncio.Task[None]] | None = None
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
        return await self._queue(definition, seed=seed, trigger="manual", last_sample=0)

    async def all(self, *, task: str | None = None, limit: int = 100) -> list[Job]:
        """Jobs, newest first."""
        return await self._table.all(task=task, limit=limit)

    async def get(self, job_id: str) -> Job:
        """One job; raises `NotFound` when there is none of that id."""
        return await self._table.get(job_id)

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
        if self._current is not None and self._current[0] == job_id:
            work = self._current[1]
            work.cancel()
            await asyncio.wait([work])
        log.info("job %s: cancelled", job_id)
        return await self._table.get(job_id)

    async def run(self) -> None:
        """Run jobs until cancelled; a job that runs then stays `running` and is started again next time."""
        while True:
            row = None
            try:
                await self._trigger()
                row = await self._table.next(self._tasks)
                self._outage.end()
            except (StorageFull, StoreError) as err:
                self._outage.begin(f"training jobs wait: {err}")
            if row is not None:
                await self._run_one(row)
                continue
            self._news.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), _POLL_S)

    async def _queue(self, task: ServedTask, *, seed: int, trigger: str, last_sample: int) -> Job:
        row = await self._table.add(task.name, seed=seed, trigger=trigger, last_sample=last_sample)
        log.info("job %s: task %s is queued (%s)", row.id, task.name, trigger)
        self._news.set()
        return row

    async def _run_one(self, row: Job) -> None:
        work = asyncio.create_task(self._guarded(row), name=f"job-{row.id}")
        self._current = (row.id, work)
        try:
            while not (await asyncio.wait([work], timeout=_POLL_S))[0]:
                if await self._was_cancelled(row.id):
                    work.cancel()
        finally:
            self._current = None
            work.cancel()
            await asyncio.wait([work])

    async def _was_cancelled(self, job_id: str) -> bool:
        """Whether somebody cancelled it, at this replica or at another one."""
        try:
            return (await self._table.get(job_id)).state == JobState.CANCELLED.value
        except (NotFound, StoreError):
            return False

    async def _guarded(self, row: Job) -> None:
        try:
            await self._work(row)
        except EdgeloopError as err:
            await self._failed(row, str(err))
        # A defect in one job must not take the service with it; the log gets it whole.
        except Exception as err:
            log.exception("job %s failed", row.id)
            await self._failed(row, f"{type(err).__name__}: {err}")

    async def _work(self, row: Job) -> None:
        """Lay out the folder, run the training in it, take what it made."""
        if row.attempts >= MAX_ATTEMPTS:
            await self._failed(row, f"it was started {row.attempts} times and never came to an end")
            return
        folder = self._folder / row.id
        if not (folder / REQUEST).exists():
            await self._prepare(row, folder)
        running = {"state": JobState.RUNNING.value, "attempts": row.attempts + 1, "started_at": self._table.now()}
        if not await self._table.change(row.id, running):
            return  # cancelled since it was chosen
        log.info("job %s: task %s trains in %s", row.id, row.task, folder)
        code = await self._follow(row, folder)
        if code != 0:
            await self._failed(row, failure(folder, code))
            return
        await self._take(row, folder)

    async def _prepare(self, row: Job, folder: Path) -> None:
        task = self._tasks[row.task]
        exported = await self._samples.training_set(row.task, limit=task.training.keep_samples)
        incumbent = await self._incumbent(row.task)
        training = task.training.model_copy(update={"seed": row.seed})
        request = TrainingRequest(
            task=task.definition.model_copy(update={"training": training}),
            version=await self._version(row),
            created_at=self._table.now().isoformat(timespec="seconds"),
        )
        await asyncio.to_thread(lay_out, folder, request, exported, incumbent)
        if exported is not None:
            count, last = len(exported.number), int(exported.number[-1])
            await self._table.change(row.id, {"samples": count, "last_sample": last})

    async def _follow(self, row: Job, folder: Path) -> int:
        """Run the child, store its progress meanwhile, return its exit code."""
        progress: dict[str, Any] = dict(row.progress)
        changed = asyncio.Event()

        def on_step(step: Step) -> None:
            progress[step.stage] = step.model_dump(exclude={"stage"})
            changed.set()

        storing = asyncio.create_task(self._store_progress(row, progress, changed), name=f"job-{row.id}-progress")
        try:
            return await run_child(self._command, folder, on_step)
        finally:
            storing.cancel()
            await asyncio.wait([storing])
            row.progress = progress

    async def _store_progress(self, row: Job, progress: Mapping[str, Any], changed: asyncio.Event) -> None:
        while True:
            await changed.wait()
            changed.clear()
            try:
                await self._table.change(row.id, {"progress": dict(progress)})
            except (StorageFull, StoreError) as err:
                self._outage.begin(f"a job's progress cannot be stored: {err}")
            await asyncio.sleep(_PROGRESS_S)

    async def _take(self, row: Job, folder: Path) -> None:
        """Import the candidate; ship it when it passed its gate and the task says so."""
        report = read_report(folder)
        bundle = await self._registry.add(folder / CANDIDATE, origin=f"job:{row.id}", shippable=report.passed)
        message = "the gate let it through" if report.passed else "; ".join(report.reasons)
        # The deployment comes first: a job found running is taken again, and deploying again only repeats itself.
        if report.passed and self._tasks[row.task].rollout is RolloutMode.AUTO:
            devices = list(await self._fleet.running(row.task))
            if devices:
                await self._rollouts.deploy(bundle, devices)
            else:
                message += "; no device runs the task yet"
        found = {"report": report.model_dump(mode="json"), "version": bundle.version, "progress": row.progress}
        await self._table.change(row.id, found)
        await self._table.end(row.id, JobState.SUCCEEDED if report.passed else JobState.REJECTED, message)
        level = logging.INFO if report.passed else logging.WARNING
        log.log(level, "job %s: %s %s: %s", row.id, row.task, bundle.version, message)

    async def _trigger(self) -> None:
        """Queue a job for each task that has enough new samples and no job that waits."""
        for name, task in self._tasks.items():
            if task.training.min_samples == 0:
                continue
            newest = await self._table.all(task=name, limit=MAX_WAITING)
            if any(job.state in WAITING for job in newest):
                continue
            last = max((job.last_sample for job in newest), default=0)
            count, newest_sample = await self._samples.count_answered(name, after=last)
            if count >= task.training.min_samples:
                await self._queue(task, seed=task.training.seed, trigger="samples", last_sample=newest_sample)

    async def _incumbent(self, task: str) -> Path | None:
        """The bundle that most devices run, else the newest that may be shipped."""
        running = Counter((await self._fleet.running(task)).values())
        known = [bundle for bundle in await self._registry.all(task) if bundle.shippable]
        # max keeps the first of equals, and the registry lists the newest first.
        chosen = max(known, key=lambda bundle: running[bundle.sha256], default=None)
        if running and (chosen is None or not running[chosen.sha256]):
            log.warning(
                "task %s: what its devices run is not in the registry, so the candidate is held against %s; "
                "put theirs in with: edgeloop model push FILE",
                task,
                chosen.version if chosen else "nothing",
            )
        return self._registry.file(chosen.sha256) if chosen else None

    async def _version(self, row: Job) -> str:
        taken = {bundle.version for bundle in await self._registry.all(row.task)}
        version = f"{row.task}-{row.number}"
        return version if version not in taken else f"{version}-{row.id[-6:]}"

    async def _failed(self, row: Job, message: str) -> None:
        log.error("job %s failed: %s", row.id, message)
        try:
            await self._table.end(row.id, JobState.FAILED, message)
        except (StorageFull, StoreError) as err:
            self._outage.begin(f"a job's end cannot be stored, it is run again: {err}")
            await asyncio.sleep(_POLL_S)
