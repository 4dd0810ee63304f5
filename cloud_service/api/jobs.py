"""/api/v1/jobs and /api/v1/triggers: training runs, and what starts them."""

from __future__ import annotations

import asyncio

from aiohttp import web

from cloud_service.api.resources import (
    JobList,
    JobLog,
    JobLogQuery,
    JobQuery,
    JobRequest,
    JobView,
    TriggerList,
    TriggerQuery,
    TriggerView,
)
from cloud_service.api.routing import DOMAIN, Route, body, query
from cloud_service.storage.models import Job
from cloud_service.training import job_log
from cloud_service.training.job_table import WAITING
from cloud_service.training.jobs import Judged

_TAIL = 200
# How often a log is looked at for somebody who waits for more of it.
_LOOK_S = 0.3


async def list_jobs(request: web.Request) -> JobList:
    """Jobs, newest first."""
    asked = query(request, JobQuery)
    return JobList(items=[_job(row) for row in await request.app[DOMAIN].jobs.all(task=asked.task, limit=asked.limit)])


async def create_job(request: web.Request) -> JobView:
    """Queue a job."""
    wanted = await body(request, JobRequest)
    return _job(await request.app[DOMAIN].jobs.submit(wanted.task, seed=wanted.seed))


async def get_job(request: web.Request) -> JobView:
    """One job."""
    return _job(await request.app[DOMAIN].jobs.get(request.match_info["job"]))


async def cancel_job(request: web.Request) -> JobView:
    """End a job that has not ended."""
    return _job(await request.app[DOMAIN].jobs.cancel(request.match_info["job"]))


async def get_job_log(request: web.Request) -> JobLog:
    """The end of a job's log, or what came after a byte; `wait_s` waits for it, so that a log can be followed."""
    asked, jobs = query(request, JobLogQuery), request.app[DOMAIN].jobs
    until = asyncio.get_running_loop().time() + asked.wait_s
    while True:
        row, file = await jobs.log_file(request.match_info["job"])
        ended = row.state not in WAITING
        if asked.after is None:
            lines = _TAIL if asked.tail is None else asked.tail
            part = await asyncio.to_thread(job_log.tail, file, lines)
            return JobLog(text=part.text, next=part.next, ended=ended)
        part = await asyncio.to_thread(job_log.after, file, asked.after, whole=ended)
        if part.text or ended or asyncio.get_running_loop().time() >= until:
            return JobLog(text=part.text, next=part.next, ended=ended and not part.text)
        await asyncio.sleep(_LOOK_S)


async def list_triggers(request: web.Request) -> TriggerList:
    """How each task's triggers stand, and why."""
    asked = query(request, TriggerQuery)
    return TriggerList(items=[_trigger(judged) for judged in await request.app[DOMAIN].jobs.judge(asked.task)])


def _trigger(judged: Judged) -> TriggerView:
    decision = judged.decision
    return TriggerView(
        task=judged.task,
        standing=decision.standing.value,
        trigger=decision.trigger.value if decision.trigger else None,
        reason=decision.reason,
        until=decision.until,
        new_samples=judged.seen.new_samples,
        trained_s=judged.seen.trained_s,
    )


def _job(row: Job) -> JobView:
    return JobView(
        id=row.id,
        task=row.task,
        state=row.state,
        trigger=row.trigger,
        reason=row.reason,
        seed=row.seed,
        attempts=row.attempts,
        seconds=row.seconds,
        instance=row.instance,
        samples=row.samples,
        progress=row.progress,
        report=row.report,
        version=row.version,
        message=row.message,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


ROUTES = [
    Route("GET", "/api/v1/jobs", list_jobs, "List training jobs", JobList, query=JobQuery, errors=(422,)),
    Route(
        "POST",
        "/api/v1/jobs",
        create_job,
        "Train a new student",
        JobView,
        status=201,
        body=JobRequest,
        errors=(404, 409, 413, 422, 507),
    ),
    Route("GET", "/api/v1/jobs/{job}", get_job, "Show a job", JobView, errors=(404,)),
    Route(
        "GET",
        "/api/v1/jobs/{job}/logs",
        get_job_log,
        "Read a job's log",
        JobLog,
        query=JobLogQuery,
        errors=(404, 422),
    ),
    Route(
        "GET",
        "/api/v1/triggers",
        list_triggers,
        "Show what starts jobs",
        TriggerList,
        query=TriggerQuery,
        errors=(404, 422),
    ),
    Route("DELETE", "/api/v1/jobs/{job}", cancel_job, "Cancel a job", JobView, errors=(404, 409)),
]
