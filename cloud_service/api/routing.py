"""A route is a value: path, handler, models of what it takes and gives; the app and its document come from it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from cloud_service.api.resources import Health
from cloud_service.errors import BodyTooLarge, RequestInvalid
from cloud_service.estimates.estimator import Estimator
from cloud_service.fleet import Fleet
from cloud_service.latencies import Latencies
from cloud_service.registry.bundles import Registry
from cloud_service.rollouts.driver import Rollouts
from cloud_service.settings import HttpSettings, ServedTask
from cloud_service.storage.samples import SampleStore
from cloud_service.training.jobs import Jobs

B = TypeVar("B", bound=BaseModel)

_CHUNK = 1 << 18
# Faults of a request that an error names; the rest is counted.
_NAMED = 10


@dataclass(frozen=True, slots=True)
class Domain:
    """What the API drives; `archiving`: held while an archive of samples is made."""

    settings: HttpSettings
    tasks: Mapping[str, ServedTask]
    health: Callable[[], Health]
    fleet: Fleet
    registry: Registry
    rollouts: Rollouts
    samples: SampleStore
    jobs: Jobs
    estimator: Estimator
    latencies: Latencies = field(default_factory=Latencies)
    archiving: asyncio.Lock = field(default_factory=asyncio.Lock)


DOMAIN = web.AppKey("domain", Domain)


@dataclass(frozen=True, slots=True)
class Route:
    """One operation.

    Attributes:
        gives: model of the answer; None: bytes.
        query: model of the query string.
        body: model of a JSON body.
        form: names of a multipart body's parts, with what each is.
        takes: types of a body that is a file.
        media: types of an answer that is bytes; empty: application/octet-stream.
        errors: statuses that it may answer with, besides 401, 500 and 503.
        is_open: it needs no token where the others do.
    """

    method: str
    path: str
    handler: Callable[[web.Request], Awaitable[BaseModel | web.StreamResponse]]
    summary: str
    gives: type[BaseModel] | None
    status: int = 200
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    form: Mapping[str, str] | None = None
    takes: tuple[str, ...] = ()
    media: tuple[str, ...] = ()
    errors: tuple[int, ...] = ()
    is_open: bool = False

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Call the handler; a model becomes JSON."""
        result = await self.handler(request)
        if isinstance(result, BaseModel):
            return web.Response(text=result.model_dump_json(), status=self.status, content_type="application/json")
        return result


def query(request: web.Request, model: type[B]) -> B:
    """The query string as a model.

    Raises:
        RequestInvalid: a parameter is unknown, repeated or wrong.
    """
    if len(set(request.query)) != len(request.query):
        raise RequestInvalid("a query parameter is given twice")
    return _checked(model, lambda: model.model_validate(dict(request.query)), "query")


async def body(request: web.Request, model: type[B], *, limit: int | None = None) -> B:
    """The JSON body as a model; `limit`: bytes, None: [http] max_body_bytes.

    Raises:
        RequestInvalid: it is not JSON, or a field is missing, wrong or unknown.
        BodyTooLarge: it is over the limit.
    """
    if limit is not None:
        text = await content(request, limit=limit)
        return await asyncio.to_thread(_checked, model, lambda: model.model_validate_json(text), "body")
    try:
        text = await request.read()
    except web.HTTPRequestEntityTooLarge as err:
        raise BodyTooLarge("the body is over the limit of [http] max_body_bytes") from err
    return _checked(model, lambda: model.model_validate_json(text), "body")


async def content(request: web.Request, *, limit: int) -> bytes:
    """The body as it is, of at most so many bytes.

    Raises:
        BodyTooLarge: it is over the limit of [http] max_import_bytes.
    """
    found = bytearray()
    async for part in request.content.iter_chunked(_CHUNK):
        found += part
        if len(found) > limit:
            raise BodyTooLarge("the body is over the limit of [http] max_import_bytes")
    return bytes(found)


def _checked(model: type[B], parse: Callable[[], B], place: str) -> B:
    try:
        return parse()
    except ValidationError as err:
        found = err.errors(include_input=False, include_url=False)
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or model.__name__}: {problem['msg']}" for problem in found[:_NAMED]
        )
        more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise RequestInvalid(f"{place}: {problems}{more}") from err
