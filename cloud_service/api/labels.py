"""/api/v1/samples/labels: what people say about samples, one by one or as Label Studio gives it back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiohttp import web

from cloud_service.api.routing import DOMAIN, Domain, Route, body, content, query
from cloud_service.api.sample_resources import (
    MAX_LABELS,
    ImportQuery,
    LabelBatch,
    LabelConfigQuery,
    LabelResult,
    RefusedLabel,
)
from cloud_service.api.sample_views import the_task
from cloud_service.errors import RequestInvalid
from cloud_service.labelling import corrections, label_studio, returned
from cloud_service.labelling.returned import Chosen, Returned

# Refused rows that an answer lists.
_LISTED = 1_000


async def label_samples(request: web.Request) -> LabelResult:
    """Store labels that people chose; they win over the teacher's everywhere."""
    domain = request.app[DOMAIN]
    batch = await body(request, LabelBatch, limit=domain.settings.max_import_bytes)
    chosen = [Chosen(row, each.id, each.label) for row, each in enumerate(batch.labels, start=1)]
    return await _store(domain, returned.agreed(chosen), by=batch.by, skip=batch.skip)


async def import_labels(request: web.Request) -> LabelResult:
    """Store the labels of a file: Label Studio's JSON or JSON-MIN export, or CSV of id and label."""
    domain = request.app[DOMAIN]
    asked = query(request, ImportQuery)
    file = await content(request, limit=domain.settings.max_import_bytes)
    try:
        found = await asyncio.to_thread(returned.read, file)
    except ValueError as err:
        raise RequestInvalid(f"body: {err}") from err
    return await _store(domain, found, by=asked.by, skip=asked.skip)


async def label_config(request: web.Request) -> web.StreamResponse:
    """The labelling config (XML) that fits an export for Label Studio."""
    task = the_task(request.app[DOMAIN].tasks, query(request, LabelConfigQuery).task)
    return web.Response(text=label_studio.config(task.labels, task.input), content_type="application/xml")


async def _store(domain: Domain, found: Returned, *, by: str, skip: bool) -> LabelResult:
    """Take all rows; where some cannot be taken, none, or with `skip` the others."""
    if len(found.chosen) > MAX_LABELS:
        raise RequestInvalid(f"body: {len(found.chosen):,} labels; at most {MAX_LABELS:,} at once: send them in parts")
    tasks = await domain.samples.tasks_of([each.id for each in found.chosen])
    labels: dict[str, Sequence[str]] = {name: task.labels for name, task in domain.tasks.items()}
    resolved = corrections.resolve(found.chosen, tasks=tasks, labels=labels)
    faults = sorted([*found.faults, *resolved.faults], key=lambda fault: fault.row)
    if faults and not skip:
        listed = corrections.listing(faults)
        raise RequestInvalid(f"nothing was labelled: {len(faults):,} cannot be (skip leaves them out): {listed}")
    labelled = await domain.samples.label(resolved.labels, by=by)
    return LabelResult(
        labelled=labelled,
        unlabelled=found.unlabelled,
        refused=[RefusedLabel(row=fault.row, id=fault.id, why=fault.why) for fault in faults[:_LISTED]],
        refused_total=len(faults),
    )


_FILES = ("application/json", "text/csv")

ROUTES = [
    Route(
        "POST",
        "/api/v1/samples/labels",
        label_samples,
        "Label samples",
        LabelResult,
        body=LabelBatch,
        errors=(413, 422, 507),
    ),
    Route(
        "POST",
        "/api/v1/samples/labels/import",
        import_labels,
        "Take the labels of a file",
        LabelResult,
        query=ImportQuery,
        takes=_FILES,
        errors=(413, 422, 507),
    ),
    Route(
        "GET",
        "/api/v1/samples/label-config",
        label_config,
        "The labelling config for Label Studio",
        None,
        query=LabelConfigQuery,
        media=("application/xml",),
        errors=(404, 422),
    ),
]
