"""/api/v1/samples: what devices found hard, what the teacher and people said, and how it is deleted."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace

import numpy as np
from aiohttp import web

from cloud_service.api.cursors import cursor, number_in
from cloud_service.api.routing import DOMAIN, Route, query
from cloud_service.api.sample_resources import (
    ClassCount,
    DevicePurgeQuery,
    HistogramQuery,
    HistogramsView,
    Purge,
    PurgeQuery,
    SampleDetail,
    SampleGroup,
    SamplePage,
    SampleQuery,
    SampleScope,
    SampleSummary,
)
from cloud_service.api.sample_views import name_of, sample_filter, sample_id, sample_view, the_task
from cloud_service.errors import RequestInvalid
from cloud_service.labelling import pictures
from cloud_service.labelling.pictures import Kind
from cloud_service.storage.samples import Group, Purged, SampleFilter
from shared import codec
from shared.codec import Array

NPY, CBOR, PNG = "application/x-npy", "application/cbor", "image/png"


async def list_samples(request: web.Request) -> SamplePage:
    """A page of stored samples."""
    domain = request.app[DOMAIN]
    asked = query(request, SampleQuery)
    before = number_in(asked.cursor) if asked.cursor is not None else None
    # One more than asked tells whether there is a next page.
    rows = await domain.samples.page(sample_filter(asked, domain.tasks), before=before, limit=asked.limit + 1)
    shown = rows[: asked.limit]
    following = cursor(shown[-1].number) if len(rows) > len(shown) else None
    return SamplePage(items=[sample_view(row, domain.tasks) for row in shown], next=following)


async def summarise(request: web.Request) -> SampleSummary:
    """How many samples there are."""
    domain = request.app[DOMAIN]
    which = sample_filter(query(request, SampleScope), domain.tasks)
    groups = await domain.samples.groups(which)
    # Nothing counts as labelled where the question is about what is not.
    by_people = [] if which.labelled is False else await domain.samples.groups(replace(which, labelled=True))
    labelled = {_key(group): group.count for group in by_people}
    return SampleSummary(
        total=sum(group.count for group in groups),
        answered=sum(group.count for group in groups if group.label is not None),
        labelled=sum(labelled.values()),
        groups=[
            SampleGroup(
                task=g.task,
                device=g.device,
                reason=g.reason,
                label=g.label,
                count=g.count,
                labelled=labelled.get(_key(g), 0),
            )
            for g in groups
        ],
    )


async def count_samples(request: web.Request) -> HistogramsView:
    """How a task's samples spread over labels and hardness."""
    domain = request.app[DOMAIN]
    asked = query(request, HistogramQuery)
    task = the_task(domain.tasks, asked.task)
    found = await domain.samples.histograms(task.name, device=asked.device, since=asked.since)
    labels = sorted({*range(len(task.labels)), *found.classes})
    return HistogramsView(
        task=task.name,
        classes=[ClassCount(label=n, name=name_of(n, task.labels), count=found.classes.get(n, 0)) for n in labels],
        hardness=list(found.hardness),
    )


async def get_sample(request: web.Request) -> SampleDetail:
    """One sample."""
    tasks = request.app[DOMAIN].tasks
    row = await request.app[DOMAIN].samples.one(sample_id(request.match_info["sample"]))
    labels = list(tasks[row.task].labels) if row.task in tasks else None
    return SampleDetail(**sample_view(row, tasks).model_dump(), labels=labels)


async def get_tensor(request: web.Request) -> web.StreamResponse:
    """A sample's raw tensor as npy or CBOR, or a picture of it as PNG, as the header Accept says; else npy."""
    domain = request.app[DOMAIN]
    row = await domain.samples.one(sample_id(request.match_info["sample"]))
    tensor = await domain.samples.tensor(row)
    kind = _wanted(request.headers.get("Accept", ""))
    # It never changes, but it can be deleted.
    headers = {
        "Vary": "Accept",
        "Cache-Control": "private, no-cache",
        "ETag": f'"{row.blob}-{kind.rpartition("/")[2]}"',
    }
    # A large picture takes a second to compress: meanwhile verdicts go on.
    written = await asyncio.to_thread(_written, tensor, kind)
    return web.Response(body=written, content_type=kind, headers=headers)


async def purge_samples(request: web.Request) -> Purge:
    """Delete the samples that match for good: a redelivery does not bring them back."""
    domain = request.app[DOMAIN]
    asked = query(request, PurgeQuery)
    which = sample_filter(asked, domain.tasks)
    if which == SampleFilter():
        raise RequestInvalid("query: nothing says which samples to delete, and that would be all: name a task, say")
    size = await domain.samples.size(which)
    if asked.dry_run:
        return Purge(samples=size.samples, bytes=size.payload_bytes, blobs=None, deleted=False)
    return _purge(await domain.samples.purge(which), size.payload_bytes)


async def purge_device(request: web.Request) -> Purge:
    """Delete all samples and incidents of a device for good, and refuse samples of before that it sends again."""
    domain = request.app[DOMAIN]
    device = request.match_info["device"]
    asked = query(request, DevicePurgeQuery)
    size = await domain.samples.size(SampleFilter(device=device))
    if asked.dry_run:
        return Purge(samples=size.samples, bytes=size.payload_bytes, blobs=None, deleted=False)
    return _purge(await domain.samples.purge_device(device), size.payload_bytes)


def _purge(purged: Purged, payload_bytes: int) -> Purge:
    return Purge(samples=purged.samples, bytes=payload_bytes, blobs=purged.blobs, deleted=True)


def _key(group: Group) -> tuple[str, str, str, int | None]:
    return group.task, group.device, group.reason, group.label


def _wanted(accept: str) -> str:
    """The first type in an Accept header that is offered; its weights are not looked at."""
    for part in accept.split(","):
        kind = part.partition(";")[0].strip().lower()
        if kind in (NPY, CBOR, PNG):
            return kind
        if kind == "image/*":
            return PNG
    return NPY


def _written(tensor: Array, kind: str) -> bytes:
    """The tensor in one of the three forms.

    Raises:
        RequestInvalid: a picture is asked for, and it is none.
    """
    if kind == CBOR:
        return codec.encode(tensor)
    if kind == NPY:
        file = io.BytesIO()
        np.save(file, tensor, allow_pickle=False)
        return file.getvalue()
    if pictures.kind_of(tensor.shape, tensor.dtype) is not Kind.IMAGE:
        raise RequestInvalid(
            f"a tensor of shape {list(tensor.shape)} and type {tensor.dtype} is no picture: ask for {NPY}"
        )
    return pictures.png(pictures.picture(tensor))


_SAMPLES = "/api/v1/samples"

ROUTES = [
    Route("GET", _SAMPLES, list_samples, "List samples", SamplePage, query=SampleQuery, errors=(422,)),
    Route("DELETE", _SAMPLES, purge_samples, "Delete samples for good", Purge, query=PurgeQuery, errors=(422, 507)),
    Route("GET", f"{_SAMPLES}/summary", summarise, "Count samples", SampleSummary, query=SampleScope, errors=(422,)),
    Route(
        "GET",
        f"{_SAMPLES}/histograms",
        count_samples,
        "Count samples by label and hardness",
        HistogramsView,
        query=HistogramQuery,
        errors=(404, 422),
    ),
    Route("GET", f"{_SAMPLES}/{{sample}}", get_sample, "Show a sample", SampleDetail, errors=(404,)),
    Route(
        "GET",
        f"{_SAMPLES}/{{sample}}/tensor",
        get_tensor,
        "Fetch a sample's tensor",
        None,
        media=(NPY, CBOR, PNG),
        errors=(404, 422),
    ),
    Route(
        "DELETE",
        "/api/v1/devices/{device}/data",
        purge_device,
        "Delete a device's samples for good",
        Purge,
        query=DevicePurgeQuery,
        errors=(422, 507),
    ),
]
