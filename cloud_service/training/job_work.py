"""One training job from its row to its end: folder, child process, candidate into the registry and to the devices."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloud_service.errors import Conflict, StoreError
from cloud_service.fleet import Fleet
from cloud_service.notices import Outage
from cloud_service.registry.bundles import Registry, is_variant
from cloud_service.rollouts.driver import Rollouts
from cloud_service.settings import RolloutMode, ServedTask
from cloud_service.storage.models import Bundle, Job, JobState
from cloud_service.storage.samples import SampleStore
from cloud_service.training.child import LOG, failure, run_child
from cloud_service.training.job_folder import (
    Incumbent,
    begin,
    lay_out,
    read_report,
    rename,
    take_back,
    weights_of,
)
from cloud_service.training.job_table import JobTable
from cloud_service.training.progress import Step
from cloud_service.training.request import CANDIDATE, REQUEST, TrainingReport, TrainingRequest
from cloud_service.training.sightings import Sightings
from shared.bundle import sha256_file
from shared.errors import EdgeloopError, StorageFull

log = logging.getLogger(__name__)

# Starts of a job without a stage that ended in between; stops in good order are none.
MAX_STARTS = 3
# How often a candidate is given another version because somebody took its own.
_MAX_RENAMES = 5
# Progress is stored so often at most, and the time that was spent so often at least.
_PROGRESS_S, _SPENT_S = 0.25, 10.0
# After an end that could not be stored.
_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class JobParts:
    """What jobs work with."""

    table: JobTable
    samples: SampleStore
    registry: Registry
    rollouts: Rollouts
    fleet: Fleet
    sightings: Sightings


@dataclass(frozen=True, slots=True)
class _Made:
    """A bundle that a run left."""

    version: str
    file: Path
    passed: bool


class JobWork:
    """Works on one job at a call; several may be under way side by side.

    Args:
        tasks: what may be trained.
        folders: each job gets a folder in it.
        command: what is run with a job's folder as its last argument.
        instance: this replica's name.
    """

    def __init__(
        self,
        parts: JobParts,
        *,
        tasks: Mapping[str, ServedTask],
        folders: Path,
        command: Sequence[str],
        instance: str,
    ) -> None:
        self._table = parts.table
        self._samples = parts.samples
        self._registry = parts.registry
        self._rollouts = parts.rollouts
        self._fleet = parts.fleet
        self._tasks = tasks
        self._folders = folders
        self._command = command
        self._instance = instance
        self._outage = Outage(log, "jobs' progress and ends are stored again")

    async def run(self, row: Job) -> None:
        """Bring the job to its end and note it; cancelled: its process is ended and the job stays as it is."""
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
        folder = self._folders / row.id
        if not (folder / REQUEST).exists():
            await self._prepare(row, folder)
        if await asyncio.to_thread(begin, folder) > MAX_STARTS:
            await self._failed(row, f"it was cut off {MAX_STARTS} times in the same stage: see {folder / LOG}")
            return
        if not await self._table.claim(row, instance=self._instance):
            return  # cancelled since it was chosen, or another replica leads
        log.info("job %s: task %s trains in %s", row.id, row.task, folder)
        try:
            code = await self._follow(row, folder)
        except asyncio.CancelledError:
            with suppress(OSError, StorageFull):
                take_back(folder)
            raise
        if code != 0:
            await self._failed(row, failure(folder, code))
            return
        try:
            await self._take(row, folder)
        except (StorageFull, StoreError) as err:
            # What is trained is not thrown away, and may be with devices already: the row is left as it is, so the job
            # is taken again, which repeats nothing but this.
            self._outage.begin(f"what job {row.id} made cannot be stored, it is tried again: {err}")
            with suppress(OSError, StorageFull):
                take_back(folder)
            await asyncio.sleep(_PAUSE_S)
        else:
            self._outage.end()

    async def _prepare(self, row: Job, folder: Path) -> None:
        task = self._tasks[row.task]
        exported = await self._samples.training_set(row.task, limit=task.training.keep_samples)
        incumbent = await self._incumbent(row.task)
        training = task.training.model_copy(update={"seed": row.seed})
        request = TrainingRequest(
            task=task.definition.model_copy(update={"training": training}),
            version=await self._free_version(row),
            created_at=self._table.now().isoformat(timespec="seconds"),
        )
        await asyncio.to_thread(lay_out, folder, request, exported, incumbent)
        if exported is not None:
            count, last = len(exported.number), int(exported.number[-1])
            await self._table.change(row.id, {"samples": count, "last_sample": max(last, row.last_sample)})

    async def _follow(self, row: Job, folder: Path) -> int:
        """Run the child, store its progress meanwhile, return its exit code."""
        progress: dict[str, Any] = dict(row.progress)
        changed = asyncio.Event()
        clock, before = asyncio.get_running_loop().time, row.seconds
        begun = clock()

        def on_step(step: Step) -> None:
            progress[step.stage] = step.model_dump(exclude={"stage"})
            changed.set()

        async def store() -> None:
            while True:
                # Not wait_for, which loses a cancellation that comes together with a step (until Python 3.12).
                with suppress(TimeoutError):
                    async with asyncio.timeout(_SPENT_S):
                        await changed.wait()
                changed.clear()
                await self._store(row.id, {"progress": dict(progress), "seconds": before + clock() - begun})
                await asyncio.sleep(_PROGRESS_S)

        storing = asyncio.create_task(store(), name=f"job-{row.id}-progress")
        try:
            return await run_child(self._command, folder, on_step)
        finally:
            storing.cancel()
            await asyncio.wait([storing])
            row.progress, row.seconds = progress, before + clock() - begun

    async def _store(self, job_id: str, values: Mapping[str, object]) -> None:
        try:
            await self._table.change(job_id, values)
            self._outage.end()
        except (StorageFull, StoreError) as err:
            self._outage.begin(f"a job's progress cannot be stored: {err}")

    async def _take(self, row: Job, folder: Path) -> None:
        """Import the candidate; ship it when it passed its gate and the task says so."""
        bundle, report = await self._imported(row, folder)
        message = "the gate let it through" if report.passed else "; ".join(report.reasons)
        # The deployment comes first: a job found running is taken again, and deploying again only repeats itself.
        if report.passed and self._tasks[row.task].rollout is RolloutMode.AUTO:
            devices = list(await self._fleet.running(row.task))
            if devices:
                await self._rollouts.deploy(bundle, devices)
            else:
                message += "; no device runs the task yet"
        found = {"report": report.model_dump(mode="json"), "version": bundle.version, "progress": row.progress}
        await self._table.change(row.id, {**found, "seconds": row.seconds})
        await self._table.end(row.id, JobState.SUCCEEDED if report.passed else JobState.REJECTED, message)
        level = logging.INFO if report.passed else logging.WARNING
        log.log(level, "job %s: %s %s: %s", row.id, row.task, bundle.version, message)

    async def _imported(self, row: Job, folder: Path) -> tuple[Bundle, TrainingReport]:
        """The candidate and its variants in the registry; where somebody took a version meanwhile, all get the next.

        Raises:
            Conflict: that was so again and again.
            BundleError: the run left no bundle, or one that does not fit the task.
        """
        given_up: list[str] = []
        while True:
            report = read_report(folder)
            made = _made(report, folder)
            try:
                return await self._add_all(row, made), report
            except Conflict:
                if len(given_up) == _MAX_RENAMES:
                    raise
            # One of its variants may be what is taken, so that its own version looks free.
            given_up.append(report.version)
            version = await self._free_version(row, given_up=given_up)
            log.info("job %s: version %s was taken meanwhile, it becomes %s", row.id, report.version, version)
            await asyncio.to_thread(rename, folder, version)
            code = await self._follow(row, folder)
            if code != 0:
                raise EdgeloopError(failure(folder, code))

    async def _add_all(self, row: Job, made: Sequence[_Made]) -> Bundle:
        """Import all, or none, so that nothing is left behind under a name that is given up; gives the candidate's.

        Raises:
            Conflict: another file has one of the versions.
        """
        taken = {bundle.version: bundle.sha256 for bundle in await self._registry.all(row.task)}
        for each in made:
            if each.version in taken and await asyncio.to_thread(_sha256, each.file) != taken[each.version]:
                raise Conflict(f"task {row.task!r} has another bundle as version {each.version!r}")
        candidate, *variants = made
        for each in variants:
            await self._registry.add(each.file, origin=f"job:{row.id}", shippable=each.passed)
        return await self._registry.add(candidate.file, origin=f"job:{row.id}", shippable=candidate.passed)

    async def _incumbent(self, task: str) -> Incumbent | None:
        """The bundle that most devices run, else the newest that may be shipped, variants last."""
        running = Counter((await self._fleet.running(task)).values())
        known = [bundle for bundle in await self._registry.all(task) if bundle.shippable]
        # max keeps the first of equals, and the registry lists the newest first.
        chosen = max(known, key=lambda bundle: (running[bundle.sha256], not is_variant(bundle)), default=None)
        if running and (chosen is None or not running[chosen.sha256]):
            log.warning(
                "task %s: what its devices run is not in the registry, so the candidate is held against %s; "
                "put theirs in with: edgeloop model push FILE",
                task,
                chosen.version if chosen else "nothing",
            )
        if chosen is None:
            return None
        return Incumbent(self._registry.file(chosen.sha256), weights_of(self._folders, chosen.origin))

    async def _free_version(self, row: Job, *, given_up: Collection[str] = ()) -> str:
        """The task's name and the job's number; -2, -3 … behind it where that is taken or was given up."""
        taken = {*given_up, *(bundle.version for bundle in await self._registry.all(row.task))}
        version, number = f"{row.task}-{row.number}", 2
        while version in taken:
            version, number = f"{row.task}-{row.number}-{number}", number + 1
        return version

    async def _failed(self, row: Job, message: str) -> None:
        log.error("job %s failed: %s", row.id, message)
        try:
            await self._table.change(row.id, {"seconds": row.seconds})
            await self._table.end(row.id, JobState.FAILED, message)
        except (StorageFull, StoreError) as err:
            self._outage.begin(f"a job's end cannot be stored, it is run again: {err}")
            await asyncio.sleep(_PAUSE_S)


def _made(report: TrainingReport, folder: Path) -> list[_Made]:
    """The run's candidate, then its further variants."""
    variants = [_Made(each.version, folder / each.bundle, each.passed) for each in report.variants]
    return [_Made(report.version, folder / CANDIDATE, report.passed), *variants]


def _sha256(file: Path) -> str:
    """The file's; empty where there is none, and importing it says so."""
    return sha256_file(file) if file.is_file() else ""
