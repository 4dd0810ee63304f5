"""A route is a value: path, handler, models of what it takes and gives; the app and its document come from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from cloud_service.api.resources import Health
from cloud_service.errors import BodyTooLarge, RequestInvalid
from cloud_service.fleet import Fleet
from cloud_service.registry.bundles import Registry
from cloud_service.rollouts.driver import Rollouts
from cloud_service.settings import HttpSettings, ServedTask
from cloud_service.storage.samples import SampleStore
from cloud_service.training.jobs import Jobs

B = TypeVar("B", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Domain:
    """What the API drives."""

    settings: HttpSettings
    tasks: Mapping[str, ServedTask]
    health: Callable[[], Health]
    fleet: Fleet
    registry: Registry
    rollouts: Rollouts
    samples: SampleStore
    jobs: Jobs


DOMAIN = web.AppKey("domain", Domain)


@dataclass(frozen=True, slots=True)
class Route:
    """One operation.

    Attributes:
        gives: model of the answer; None: bytes.
        query: model of the query string.
        body: model of a JSON body.
        form: names of a multipart body's parts, with what each is.
        errors: statuses that it may answer with, besides 500 and 503.
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
    errors: tuple[int, ...] = ()

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


async def body(request: web.Request, model: type[B]) -> B:
    """The JSON body as a model.

    Raises:
        RequestInvalid: it is not JSON, or a field is missing, wrong or unknown.
        BodyTooLarge: it is over the limit.
    """
    try:
        text = await request.read()
    except web.HTTPRequestEntityTooLarge as err:
        raise BodyTooLarge("the body is over the limit of [http] max_body_bytes") from err
    return _checked(model, lambda: model.model_validate_json(text), "body")


def _checked(model: type[B], parse: Callable[[], B], place: str) -> B:
    try:
        return parse()
    except ValidationError as err:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or model.__name__}: {problem['msg']}" for problem in err.errors()
        )
        raise RequestInvalid(f"{place}: {problems}") from err
