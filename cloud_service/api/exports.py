"""/api/v1/samples/export: samples as a file that is sent while it is made; an npz, of limited size, once it is made."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from cloud_service.api.cursors import cursor, number_in
from cloud_service.api.routing import DOMAIN, Domain, Route, query
from cloud_service.api.sample_resources import ExportFormat, ExportQuery
from cloud_service.api.sample_views import sample_filter, sample_view, the_task
from cloud_service.labelling import archive, exports
from cloud_service.labelling.exports import Wanted
from cloud_service.storage.models import Sample
from shared.errors import EdgeloopError

log = logging.getLogger(__name__)

_CHUNK = 1 << 18
_MEDIA = {
    ExportFormat.LABEL_STUDIO: "application/json",
    ExportFormat.JSONL: "application/jsonl",
    ExportFormat.NPZ: "application/x-npz",
}
_SUFFIX = {ExportFormat.LABEL_STUDIO: "json", ExportFormat.JSONL: "jsonl", ExportFormat.NPZ: "npz"}
# Headers of an npz: how many samples it has, how many match, and the cursor of the next file where it is not all.
COUNT, MATCHING, NEXT = "Edgeloop-Samples", "Edgeloop-Matching", "Edgeloop-Next"


@dataclass(frozen=True, slots=True)
class _Export:
    """What is sent."""

    parts: AsyncGenerator[bytes, None]
    headers: dict[str, str] = field(default_factory=dict)


async def export_samples(request: web.Request) -> web.StreamResponse:
    """The samples that match, newest first; all but jsonl are of one task and hold the tensors.

    An npz holds no more than [http] max_export_bytes: its header Edgeloop-Next is the cursor of the next one.
    """
    domain = request.app[DOMAIN]
    asked = query(request, ExportQuery)
    response = web.StreamResponse(
        headers={"Content-Disposition": f'attachment; filename="samples.{_SUFFIX[asked.format]}"'}
    )
    response.content_type = _MEDIA[asked.format]
    async with AsyncExitStack() as stack:
        export = await _export(domain, asked, stack)
        parts = await stack.enter_async_context(aclosing(export.parts))
        # What goes wrong before the first part is an error like any other; after it, only the connection can tell.
        first = await anext(parts, b"")
        response.headers.update(export.headers)
        await response.prepare(request)
        if request.method != "HEAD":
            await response.write(first)
            await _send(response, parts)
    await response.write_eof()
    return response


async def _export(domain: Domain, asked: ExportQuery, stack: AsyncExitStack) -> _Export:
    which = sample_filter(asked, domain.tasks)
    before = None if asked.cursor is None else number_in(asked.cursor)
    if asked.format is ExportFormat.JSONL:

        def line(row: Sample) -> str:
            return sample_view(row, domain.tasks).model_dump_json()

        return _Export(exports.lines(domain.samples, Wanted(which, asked.limit, before), line))
    task = the_task(domain.tasks, asked.task)
    wanted = Wanted(sample_filter(asked.model_copy(update={"task": task.name}), domain.tasks), asked.limit, before)
    if asked.format is ExportFormat.LABEL_STUDIO:

        def link(row: Sample) -> str:
            return f"{domain.settings.base_url.rstrip('/')}/api/v1/samples/{row.id}/tensor"

        return _Export(exports.label_studio_tasks(domain.samples, wanted, task, link=link))
    return await _archive(domain, wanted, task.name, stack)


async def _archive(domain: Domain, wanted: Wanted, task: str, stack: AsyncExitStack) -> _Export:
    folder = stack.enter_context(domain.registry.scratch())
    # One at a time: what it has in memory is bounded, and so is the sum.
    async with domain.archiving:
        made = await archive.write(
            domain.samples, wanted, domain.tasks[task], folder, max_bytes=domain.settings.max_export_bytes
        )
    headers = {COUNT: str(made.samples)}
    if made.rest is not None:
        matching = await domain.samples.size(wanted.which)
        headers |= {MATCHING: str(matching.samples), NEXT: cursor(made.rest)}
    return _Export(_content(made.file), headers)


async def _content(path: Path) -> AsyncGenerator[bytes, None]:
    with await asyncio.to_thread(path.open, "rb") as file:
        while part := await asyncio.to_thread(file.read, _CHUNK):
            yield part


async def _send(response: web.StreamResponse, parts: AsyncGenerator[bytes, None]) -> None:
    """The rest; when it cannot be made the connection is broken, so that nobody takes half a file for a whole one."""
    try:
        async for part in parts:
            await response.write(part)
    except EdgeloopError as err:
        log.error("an export broke off: %s", err)
        raise ConnectionResetError("the export broke off") from err


ROUTES = [
    Route(
        "GET",
        "/api/v1/samples/export",
        export_samples,
        "Export samples",
        None,
        query=ExportQuery,
        media=tuple(_MEDIA.values()),
        errors=(404, 422, 507),
    )
]
