"""Training jobs in the database: queued, found, changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime

from sqlalchemy import ColumnElement, func, select

from cloud_service.errors import Conflict, NotFound
from cloud_service.storage.database import Database, utc_now
from cloud_service.storage.models import Job, JobState
from shared.ids import new_id

MAX_WAITING = 20
WAITING = (JobState.QUEUED.value, JobState.RUNNING.value)


class JobTable:
    """The rows."""

    def __init__(self, database: Database, *, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self.now = now

    async def add(self, task: str, *, seed: int, trigger: str, last_sample: int = 0) -> Job:
        """Queue a job.

        Raises:
            Conflict: too many of the task's jobs wait already.
        """
        async with self._database.writing() as session:
            waiting = (Job.task == task, Job.state.in_(WAITING))
            if int(await session.scalar(select(func.count()).where(*waiting)) or 0) >= MAX_WAITING:
                raise Conflict(f"{MAX_WAITING} jobs of task {task!r} wait already: let them end, or cancel some")
            row = Job(
                id=str(new_id()),
                task=task,
                state=JobState.QUEUED.value,
                trigger=trigger,
                seed=seed,
                attempts=0,
                samples=0,
                last_sample=last_sample,
                progress={},
                message="",
                created_at=self.now(),
            )
            session.add(row)
        return row

    async def all(self, *, task: str | None = None, limit: int = 100) -> list[Job]:
        """Jobs, newest first."""
        where: list[ColumnElement[bool]] = [] if task is None else [Job.task == task]
        async with self._database.reading() as session:
            return list(await session.scalars(select(Job).where(*where).order_by(Job.number.desc()).limit(limit)))

    async def get(self, job_id: str) -> Job:
        """One job.

        Raises:
            NotFound: there is none of that id.
        """
        async with self._database.reading() as session:
            row = await session.scalar(select(Job).where(Job.id == job_id))
        if row is None:
            raise NotFound(f"no job {job_id!r}: list them with GET /api/v1/jobs")
        return row

    async def next(self, tasks: Collection[str]) -> Job | None:
        """The job that was cut off, else the oldest that waits."""
        order = (Job.state == JobState.QUEUED.value, Job.number)
        query = select(Job).where(Job.state.in_(WAITING), Job.task.in_(tasks)).order_by(*order).limit(1)
        async with self._database.reading() as session:
            return await session.scalar(query)

    async def change(self, job_id: str, values: Mapping[str, object]) -> bool:
        """Set columns of a job; one that was cancelled stays as it is, and False says so."""
        async with self._database.writing() as session:
            row = await session.scalar(select(Job).where(Job.id == job_id))
            if row is None or row.state == JobState.CANCELLED.value:
                return False
            for name, value in values.items():
                setattr(row, name, value)
        return True

    async def end(self, job_id: str, state: JobState, message: str) -> None:
        """Note how a job ended."""
        await self.change(job_id, {"state": state.value, "message": message[:2_000], "finished_at": self.now()})
