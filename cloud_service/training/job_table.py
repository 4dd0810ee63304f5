"""Training jobs in the database: queued, found, claimed, changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cloud_service.errors import Conflict, NotFound
from cloud_service.storage.database import Database, utc_now
from cloud_service.storage.models import Bundle, Deployment, Job, JobState
from cloud_service.training.triggers import DAY, MAX_DOUBLINGS, Spell
from shared.ids import new_id

MAX_WAITING = 20
WAITING = (JobState.QUEUED.value, JobState.RUNNING.value)
_SETBACKS = (JobState.FAILED.value, JobState.REJECTED.value)
_LEARNT_NOTHING = (JobState.FAILED.value, JobState.CANCELLED.value)


@dataclass(frozen=True, slots=True)
class History:
    """What a task's jobs of the past say about the next one.

    Attributes:
        waiting: one that is queued or runs.
        last_sample: newest sample of the jobs that did not fail.
        queued_at, ended_at: the latest of all of them.
        good_at: end of the newest one that passed its gate.
        failed: the newest one that ended by itself failed.
        setbacks: newest ones in a row that failed or did not pass, cancelled ones left out; counted up to a limit.
        spells: of training, in the last 24 hours.
    """

    waiting: Job | None
    last_sample: int
    queued_at: datetime | None
    ended_at: datetime | None
    good_at: datetime | None
    failed: bool
    setbacks: int
    spells: Sequence[Spell]


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that has ended; `shipped`: its model was sent to a device."""

    id: str
    task: str
    shipped: bool


class JobTable:
    """The rows. Every method raises `StoreError`, or `StorageFull` where it writes, when the database failed."""

    def __init__(self, database: Database, *, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self.now = now

    async def add(self, task: str, *, seed: int, trigger: str, reason: str = "", last_sample: int = 0) -> Job:
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
                reason=reason[:2_000],
                seed=seed,
                attempts=0,
                samples=0,
                last_sample=last_sample,
                progress={},
                message="",
                created_at=self.now(),
                seconds=0.0,
                instance="",
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
        """The next job of these tasks: one that was cut off, else the oldest of the task that has waited longest.

        Longest since one of its jobs was started: a task with a long queue does not hold up the others.
        """
        last = select(Job.task, func.max(Job.started_at).label("at")).group_by(Job.task).subquery()
        queued = Job.state == JobState.QUEUED.value
        order = (queued, last.c.at.is_not(None), last.c.at, Job.number)
        query = select(Job).join(last, last.c.task == Job.task).where(Job.state.in_(WAITING), Job.task.in_(tasks))
        async with self._database.reading() as session:
            return await session.scalar(query.order_by(*order).limit(1))

    async def claim(self, row: Job, *, instance: str) -> bool:
        """Make a job that was found this replica's own; False: it was cancelled, or another one was quicker."""
        claimed = (
            update(Job)
            .where(Job.id == row.id, Job.state.in_(WAITING), Job.attempts == row.attempts)
            .values(state=JobState.RUNNING.value, attempts=row.attempts + 1, started_at=self.now(), instance=instance)
            .returning(Job.number)
        )
        async with self._database.writing() as session:
            return (await session.execute(claimed)).scalar_one_or_none() is not None

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

    async def history(self, task: str) -> History:
        """What the task's jobs say about the next one."""
        of_task, now = Job.task == task, self.now()
        learnt = select(func.max(Job.last_sample)).where(of_task, Job.state.not_in(_LEARNT_NOTHING))
        good = select(func.max(Job.finished_at)).where(of_task, Job.state == JobState.SUCCEEDED.value)
        times = select(func.max(Job.created_at), func.max(Job.finished_at)).where(of_task)
        states = select(Job.state).where(of_task, Job.state.not_in((*WAITING, JobState.CANCELLED.value)))
        async with self._database.reading() as session:
            waiting = select(Job).where(of_task, Job.state.in_(WAITING)).order_by(Job.number).limit(1)
            queued_at, ended_at = (await session.execute(times)).one()
            last = list(await session.scalars(states.order_by(Job.number.desc()).limit(MAX_DOUBLINGS)))
            return History(
                waiting=await session.scalar(waiting),
                last_sample=int(await session.scalar(learnt) or 0),
                queued_at=queued_at,
                ended_at=ended_at,
                good_at=await session.scalar(good),
                failed=last[:1] == [JobState.FAILED.value],
                setbacks=next((n for n, state in enumerate(last) if state not in _SETBACKS), len(last)),
                spells=await _spells(session, task, now),
            )

    async def ended(self) -> list[Ended]:
        """Every job that has ended, newest first; shipped: its candidate or a variant of it was sent to a device."""
        made = select(Bundle.sha256).where(Bundle.origin == "job:" + Job.id).correlate(Job)
        shipped = exists().where(Deployment.task == Job.task, Deployment.sha256.in_(made))
        query = select(Job.id, Job.task, shipped).where(Job.state.not_in(WAITING)).order_by(Job.number.desc())
        async with self._database.reading() as session:
            return [Ended(name, task, bool(sent)) for name, task, sent in await session.execute(query)]


async def _spells(session: AsyncSession, task: str, now: datetime) -> list[Spell]:
    lately = or_(Job.finished_at > now - DAY, and_(Job.finished_at.is_(None), Job.state.in_(WAITING)))
    spent = select(Job.seconds, Job.finished_at).where(Job.task == task, Job.started_at.is_not(None), lately)
    return [Spell(seconds, until or now) for seconds, until in await session.execute(spent)]
