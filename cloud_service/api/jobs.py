"""/api/v1/jobs: training runs."""

from __future__ import annotations

from aiohttp import web

from cloud_service.api.resources import JobList, JobQuery, JobRequest, JobView
from cloud_service.api.routing import DOMAIN, Route, body, query
from cloud_service.storage.models import Job


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


def _job(row: Job) -> JobView:
    return JobView(
        id=row.id,
        task=row.task,
        state=row.state,
        trigger=row.trigger,
        seed=row.seed,
        attempts=row.attempts,
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
    Route("DELETE", "/api/v1/jobs/{job}", cancel_job, "Cancel a job", JobView, errors=(404, 409)),
]
