"""The management API: its routes, and how it is served."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.typedefs import Middleware

from cloud_service.api import devices, estimates, exports, jobs, labels, metrics, models, openapi, samples
from cloud_service.api.login import is_loopback, tokens_only
from cloud_service.api.middleware import problems
from cloud_service.api.resources import Health
from cloud_service.api.routing import DOMAIN, Domain, Route
from cloud_service.tokens import Tokens, read_tokens
from shared.errors import SettingsError

log = logging.getLogger(__name__)

DOCUMENT = web.AppKey("document", str)
_SHUTDOWN_S = 2.0


async def healthz(request: web.Request) -> Health:
    """Answer as long as the service works at all."""
    return request.app[DOMAIN].health()


async def document(request: web.Request) -> web.StreamResponse:
    """The OpenAPI document of this API."""
    return web.json_response(text=request.app[DOCUMENT])


ROUTES: list[Route] = [
    Route("GET", "/healthz", healthz, "Whether the service works", Health, is_open=True),
    *devices.ROUTES,
    *models.ROUTES,
    # Before the samples', whose {sample} would match their names.
    *exports.ROUTES,
    *labels.ROUTES,
    *samples.ROUTES,
    *jobs.ROUTES,
    *estimates.ROUTES,
    *metrics.ROUTES,
    Route("GET", "/api/v1/openapi.json", document, "This document", None),
]


def build_app(domain: Domain, tokens: Tokens | None = None) -> web.Application:
    """The application over a domain; without tokens it lets everybody in."""
    middlewares: list[Middleware] = [problems]
    if tokens is not None:
        middlewares.append(tokens_only(tokens, [route.path for route in ROUTES if route.is_open]))
    app = web.Application(middlewares=middlewares, client_max_size=domain.settings.max_body_bytes)
    app[DOMAIN] = domain
    app[DOCUMENT] = json.dumps(openapi.document(ROUTES))
    for route in ROUTES:
        # GET through add_get also answers HEAD.
        if route.method == "GET":
            app.router.add_get(route.path, route.answer)
        else:
            app.router.add_route(route.method, route.path, route.answer)
    return app


@asynccontextmanager
async def serve_http(domain: Domain) -> AsyncIterator[str]:
    """Serve until the block ends; yields the address.

    Raises:
        SettingsError: the address cannot be listened on, or the file of tokens is not what it should be.
    """
    settings = domain.settings
    tokens = None if settings.token_file is None else read_tokens(settings.token_file)
    if tokens is None and not is_loopback(settings.host):
        log.warning(
            "whoever reaches %s:%d may read and delete everything: set [http] token_file, see docs/operations.md",
            settings.host,
            settings.port,
        )
    runner = web.AppRunner(build_app(domain, tokens), access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, settings.host, settings.port).start()
        except OSError as err:
            raise SettingsError(
                f"cannot listen on {settings.host}:{settings.port} ({err.strerror}): change [http] host or port"
            ) from err
        port = runner.addresses[0][1]
        yield f"http://{settings.host}:{port}"
    finally:
        await runner.cleanup()
