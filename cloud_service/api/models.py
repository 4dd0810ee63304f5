"""/api/v1/models: the registry: list, push, fetch."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from aiohttp import BodyPartReader, web

from cloud_service.api.ranges import send_file
from cloud_service.api.resources import ModelDetail, ModelFilter, ModelList, ModelView
from cloud_service.api.routing import DOMAIN, Domain, Route, query
from cloud_service.errors import BodyTooLarge, NotFound, RequestInvalid
from cloud_service.registry.wrap import GOLDEN_SAMPLES, parse_description, wrap
from cloud_service.storage.models import Bundle
from cloud_service.tasks.data import load_base
from cloud_service.tasks.task import TaskDefinition
from shared import atomic
from shared.codec import Array
from shared.manifest import Manifest

_HASH = re.compile(r"[0-9a-f]{64}")
_PARTS = {
    "bundle": "a bundle file; alone",
    "model": "an ONNX classifier, with a description",
    "description": "JSON: task, input {shape, dtype}; optional: version, labels, temperature, threshold, output",
}


async def list_models(request: web.Request) -> ModelList:
    """Bundles in the registry."""
    rows = await request.app[DOMAIN].registry.all(query(request, ModelFilter).task)
    return ModelList(items=[_model(row) for row in rows])


async def get_model(request: web.Request) -> ModelDetail:
    """One bundle."""
    return _detail(await _wanted(request))


async def fetch_bundle(request: web.Request) -> web.StreamResponse:
    """A bundle's bytes, whole or in part; its hash is the ETag."""
    row = await _wanted(request)
    return await send_file(request, request.app[DOMAIN].registry.file(row.sha256), etag=row.sha256)


async def fetch_by_hash(request: web.Request) -> web.StreamResponse:
    """A bundle's bytes under its hash: who knows that was told it, so no token is asked for."""
    sha256 = request.match_info["sha256"]
    file = request.app[DOMAIN].registry.file(sha256)
    if not _HASH.fullmatch(sha256) or not await asyncio.to_thread(file.is_file):
        raise NotFound("no bundle has this hash")
    return await send_file(request, file, etag=sha256)


async def push_model(request: web.Request) -> ModelDetail:
    """Take a bundle file, or make a bundle of an ONNX file and its description."""
    domain = request.app[DOMAIN]
    with domain.registry.scratch() as folder:
        parts = await _receive(request, folder, domain.settings.max_model_bytes)
        match sorted(parts):
            case ["bundle"]:
                row = await domain.registry.add(parts["bundle"], origin="upload")
            case ["description", "model"]:
                file = await _wrapped(domain, folder, parts)
                row = await domain.registry.add(file, origin="wrapped")
            case names:
                given = ", ".join(names) or "nothing"
                raise RequestInvalid(f"send a part 'bundle', or the parts 'model' and 'description'; this has {given}")
    return _detail(row)


async def _wrapped(domain: Domain, folder: Path, parts: dict[str, Path]) -> Path:
    if parts["description"].stat().st_size > domain.settings.max_body_bytes:
        raise BodyTooLarge("the description is over the limit of [http] max_body_bytes")
    description = parse_description(parts["description"].read_bytes())
    task = domain.tasks.get(description.task)
    file = folder / "wrapped.bundle"
    await asyncio.to_thread(
        wrap,
        file,
        model=await asyncio.to_thread(parts["model"].read_bytes),
        description=description,
        labels=task.labels if task else None,
        samples=await asyncio.to_thread(_public_samples, task) if task else (),
    )
    return file


def _public_samples(task: TaskDefinition) -> list[Array]:
    """Held-out base samples: what a device sent stays out of the bundles that others get."""
    return list(load_base(task).x_eval[:GOLDEN_SAMPLES])


async def _receive(request: web.Request, folder: Path, limit: int) -> dict[str, Path]:
    """Write the parts of a multipart body into a folder."""
    if not request.content_type.startswith("multipart/"):
        raise RequestInvalid("send the model as multipart/form-data")
    received: dict[str, Path] = {}
    left = limit
    try:
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader) or part.name not in _PARTS or part.name in received:
                raise RequestInvalid(f"the parts may be {', '.join(_PARTS)}, each once")
            received[part.name] = folder / part.name
            left -= await _write(part, received[part.name], left)
    # aiohttp's reader raises ValueError and AssertionError, too, for a body that breaks off or is not well formed.
    except (ValueError, AssertionError) as err:
        raise RequestInvalid(f"the multipart body cannot be read: {err}") from err
    return received


async def _write(part: BodyPartReader, target: Path, limit: int) -> int:
    size = 0
    try:
        with target.open("wb") as file:
            while chunk := await part.read_chunk(1 << 18):
                size += len(chunk)
                if size > limit:
                    raise BodyTooLarge("the model is over the limit of [http] max_model_bytes")
                await asyncio.to_thread(file.write, chunk)
    except OSError as err:
        raise atomic.full_or_same(err, target) from err
    return size


async def _wanted(request: web.Request) -> Bundle:
    names = request.match_info
    return await request.app[DOMAIN].registry.get(names["task"], names["version"])


def _model(row: Bundle) -> ModelView:
    return ModelView(
        task=row.task,
        version=row.version,
        sha256=row.sha256,
        size_bytes=row.size_bytes,
        parent=row.parent,
        origin=row.origin,
        shippable=row.shippable,
        created_at=row.created_at,
        metrics=row.manifest.get("metrics", {}),
    )


def _detail(row: Bundle) -> ModelDetail:
    return ModelDetail(**_model(row).model_dump(), manifest=Manifest.model_validate(row.manifest))


ROUTES = [
    Route("GET", "/api/v1/models", list_models, "List models", ModelList, query=ModelFilter, errors=(422,)),
    Route(
        "POST",
        "/api/v1/models",
        push_model,
        "Push a model",
        ModelDetail,
        status=201,
        form=_PARTS,
        errors=(409, 413, 422, 507),
    ),
    Route("GET", "/api/v1/models/{task}/{version}", get_model, "Show a model", ModelDetail, errors=(404,)),
    Route(
        "GET",
        "/api/v1/models/{task}/{version}/bundle",
        fetch_bundle,
        "Fetch a model's bundle",
        None,
        errors=(404, 416),
    ),
    Route(
        "GET",
        "/bundles/{sha256}",
        fetch_by_hash,
        "Fetch a bundle by its hash, as devices do",
        None,
        errors=(404, 416),
        is_open=True,
    ),
]
