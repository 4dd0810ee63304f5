"""/api/v1/samples: what devices found hard, and what the teacher said."""

from __future__ import annotations

from uuid import UUID

from aiohttp import web

from cloud_service.api.resources import (
    SampleGroup,
    SamplePage,
    SampleQuery,
    SampleScope,
    SampleSummary,
    SampleView,
    VerdictView,
)
from cloud_service.api.routing import DOMAIN, Route, query
from cloud_service.errors import NotFound
from cloud_service.storage.models import Sample
from cloud_service.storage.samples import SampleFilter, answer_of


async def list_samples(request: web.Request) -> SamplePage:
    """A page of stored samples."""
    asked = query(request, SampleQuery)
    before = int(asked.cursor) if asked.cursor else None
    rows = await request.app[DOMAIN].samples.page(_filter(asked), before=before, limit=asked.limit)
    following = str(rows[-1].number) if len(rows) == asked.limit else None
    return SamplePage(items=[_sample(row) for row in rows], next=following)


async def summarise(request: web.Request) -> SampleSummary:
    """How many samples there are."""
    groups = await request.app[DOMAIN].samples.groups(_filter(query(request, SampleScope)))
    return SampleSummary(
        total=sum(group.count for group in groups),
        answered=sum(group.count for group in groups if group.label is not None),
        groups=[
            SampleGroup(task=g.task, device=g.device, reason=g.reason, label=g.label, count=g.count) for g in groups
        ],
    )


async def get_sample(request: web.Request) -> SampleView:
    """One sample."""
    text = request.match_info["sample"]
    try:
        sample_id = UUID(text)
    except ValueError as err:
        raise NotFound(f"{text!r} is no sample id") from err
    return _sample(await request.app[DOMAIN].samples.one(sample_id))


def _filter(asked: SampleScope) -> SampleFilter:
    return SampleFilter(task=asked.task, device=asked.device, label=asked.label, reason=asked.reason)


def _sample(row: Sample) -> SampleView:
    answer = answer_of(row)
    verdict = None
    if answer is not None and row.answered_at is not None:
        verdict = VerdictView(
            label=answer.label,
            probabilities=answer.probabilities.tolist(),
            teacher=answer.teacher,
            answered_at=row.answered_at,
        )
    return SampleView(
        id=row.id,
        device=row.device,
        task=row.task,
        seq=row.seq,
        bundle_version=row.bundle_version,
        prediction=row.prediction,
        hardness=row.hardness,
        reason=row.reason,
        inclusion_probability=row.inclusion_probability,
        stored_at=row.stored_at,
        verdict=verdict,
        failure=row.failure,
    )


ROUTES = [
    Route("GET", "/api/v1/samples", list_samples, "List samples", SamplePage, query=SampleQuery, errors=(422,)),
    Route(
        "GET", "/api/v1/samples/summary", summarise, "Count samples", SampleSummary, query=SampleScope, errors=(422,)
    ),
    Route("GET", "/api/v1/samples/{sample}", get_sample, "Show a sample", SampleView, errors=(404,)),
]
