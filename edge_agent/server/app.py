"""The local HTTP server: the Open Inference Protocol V2 over the agent, and `/metrics`.

Runs in the agent's event loop; inference runs in a few threads of its own. aiohttp.web is imported when the server
runs, prometheus_client with the first scrape: a device that asks for neither does not pay for them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from edge_agent.errors import AgentClosed, Overloaded, UnknownTask
from edge_agent.server import metadata
from edge_agent.server.inference_protocol import Answer, read_request, samples_of, write_answer
from edge_agent.server.listening import Listener
from edge_agent.server.served_agent import ServedAgent
from edge_agent.server.settings import ServerSettings
from edge_agent.server.workers import Workers
from shared.errors import EdgeloopError, SampleError
from shared.manifest import Manifest

if TYPE_CHECKING:
    from aiohttp import web

    from edge_agent.server.metrics import Metrics

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)

_HEADER = "Inference-Header-Content-Length"
# aiohttp takes it twice: for requests to end, then for their handlers to be cancelled.
_SHUTDOWN_S = 0.5
_RETRY_AFTER_S = "1"


class Server:
    """Listens from the moment it is made; serves while `run` runs."""

    def __init__(self, settings: ServerSettings, agent: ServedAgent) -> None:
        """Bind the socket.

        Raises:
            SettingsError: somebody else listens there, or this process may not.
        """
        self._settings = settings
        self._agent = agent
        self._listener = Listener(settings)

    @property
    def address(self) -> str:
        """Where it listens, as a URL."""
        return self._listener.address

    async def run(self) -> None:
        """Serve until cancelled; then requests under way have half a second to end."""
        from aiohttp import web

        service = _Service(self._settings, self._agent)
        try:
            runner = web.AppRunner(service.app(), access_log=None, shutdown_timeout=_SHUTDOWN_S)
            try:
                await runner.setup()
                await web.SockSite(runner, self._listener.socket).start()
                log.info("the local server listens on %s", self.address)
                await asyncio.Event().wait()
            finally:
                await runner.cleanup()
        finally:
            service.close()
            self.close()

    def close(self) -> None:
        """Stop listening; for an agent that never ran its loop. Closing twice is fine."""
        self._listener.close()


class _Service:
    """The handlers."""

    def __init__(self, settings: ServerSettings, agent: ServedAgent) -> None:
        self._settings, self._agent = settings, agent
        self._workers = Workers(threads=settings.threads, max_waiting=settings.max_waiting)
        self._requests: Counter[int] = Counter()
        self._metrics: Metrics | None = None
        self._said: set[type[BaseException]] = set()

    def close(self) -> None:
        self._workers.close()

    def app(self) -> web.Application:
        from aiohttp import web

        @web.middleware
        async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
            """Every error as the protocol's JSON, every answer counted."""
            response = await self._without_raising(request, handler)
            self._requests[response.status] += 1
            return response

        app = web.Application(middlewares=[guarded], client_max_size=self._settings.max_body_bytes)
        app.router.add_get("/v2", self._server)
        app.router.add_get("/v2/health/live", self._live)
        app.router.add_get("/v2/health/ready", self._ready)
        for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            app.router.add_get(model, self._model)
            app.router.add_get(f"{model}/ready", self._model_ready)
            app.router.add_get(f"{model}/config", self._model_config)
            app.router.add_post(f"{model}/infer", self._infer)
        app.router.add_get("/metrics", self._scrape)
        return app

    async def _server(self, _: web.Request) -> web.StreamResponse:
        return _json(metadata.server_metadata())

    async def _live(self, _: web.Request) -> web.StreamResponse:
        return _json({"live": True})

    async def _ready(self, _: web.Request) -> web.StreamResponse:
        ready = self._agent.ready()
        # The protocol's text names the field "live", its servers send "ready": both.
        return _json({"ready": ready, "live": True}, status=200 if ready else 503)

    async def _model(self, request: web.Request) -> web.StreamResponse:
        name, manifest = self._named(request)
        return _json(metadata.model_metadata(name, manifest))

    async def _model_ready(self, request: web.Request) -> web.StreamResponse:
        name, _ = self._named(request)
        ready = self._agent.ready()
        return _json({"name": name, "ready": ready}, status=200 if ready else 503)

    async def _model_config(self, request: web.Request) -> web.StreamResponse:
        name, manifest = self._named(request)
        return _json(metadata.model_config(name, manifest, max_batch=self._settings.max_batch))

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        name, manifest = self._named(request)
        if not self._agent.ready():
            raise Overloaded("the agent is not ready: try again in a second")
        with self._workers.admitted():
            async with asyncio.timeout(self._settings.body_timeout_s):
                body = await request.read()
            work = partial(self._answered, name, manifest, body, request.headers.get(_HEADER))
            answer = await self._workers.run(work)
        if answer.json_bytes is None:
            return web.Response(body=answer.body, content_type="application/json")
        headers = {_HEADER: str(answer.json_bytes)}
        return web.Response(body=answer.body, content_type="application/octet-stream", headers=headers)

    def _answered(self, name: str, manifest: Manifest, body: bytes, json_bytes: str | None) -> Answer:
        """Read, infer one sample after the other, write; in a worker's thread."""
        asked = read_request(body, json_bytes=json_bytes, max_json_bytes=self._settings.max_json_bytes)
        samples = samples_of(asked, manifest.input, max_batch=self._settings.max_batch)
        until = None
        if asked.deadline_s is not None:
            until = time.monotonic() + min(asked.deadline_s, self._settings.max_deadline_s)
        outcomes = []
        for sample in samples:
            left = None if until is None else max(0.0, until - time.monotonic())
            outcomes.append(self._agent.infer(sample, task=name, deadline=left, reference=asked.reference))
        return write_answer(name, asked, outcomes)

    async def _scrape(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        accept = request.headers.get("Accept", "")
        text, content_type = await asyncio.to_thread(self._exposition, accept)
        return web.Response(body=text, headers={"Content-Type": content_type})

    def _exposition(self, accept: str) -> tuple[bytes, str]:
        if self._metrics is None:
            from edge_agent.server.metrics import Metrics

            self._metrics = Metrics(self._agent, self._requests)
        return self._metrics.exposition(accept)

    def _named(self, request: web.Request) -> tuple[str, Manifest]:
        """The model that the path names.

        Raises:
            UnknownTask: no such model, or it has another version.
        """
        manifests = self._agent.manifests()
        name, version = request.match_info["model"], request.match_info.get("version")
        manifest = manifests.get(name)
        if manifest is None:
            raise UnknownTask(f"no model {name!r}; this device has {', '.join(manifests)}")
        if version not in {None, manifest.version}:
            raise UnknownTask(f"model {name} has version {manifest.version}, not {version!r}")
        return name, manifest

    async def _without_raising(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        from aiohttp import web

        # Browsers say which page a request comes from; no page is ours, so it is a foreign one that tries this device.
        if "Origin" in request.headers:
            return _error(HTTPStatus.FORBIDDEN, "requests from web pages are not answered")
        try:
            return await handler(request)
        except EdgeloopError as err:
            return _error(_status(err), str(err))
        except web.HTTPException as err:
            return _error(HTTPStatus(err.status), f"{err.status} {err.reason}: {request.method} {request.path}")
        except web.RequestPayloadError as err:
            return _error(HTTPStatus.BAD_REQUEST, f"the request's body cannot be read: {err}")
        except TimeoutError:
            patience = f"{self._settings.body_timeout_s:g} s"
            return _error(HTTPStatus.REQUEST_TIMEOUT, f"the request did not arrive within {patience}")
        except Exception as err:  # a fault of our own must neither end the server nor be told as the client's
            if type(err) not in self._said:
                self._said.add(type(err))
                log.exception("the local server failed on %s; more of this kind are not logged", request.path)
            return _error(HTTPStatus.INTERNAL_SERVER_ERROR, "the agent failed; its log says how")


def _status(err: EdgeloopError) -> HTTPStatus:
    match err:
        case UnknownTask():
            return HTTPStatus.NOT_FOUND
        case SampleError():
            return HTTPStatus.BAD_REQUEST
        case AgentClosed():
            return HTTPStatus.SERVICE_UNAVAILABLE
        case _:
            return HTTPStatus(err.http_status)


def _json(value: dict[str, Any], *, status: int = 200) -> web.Response:
    from aiohttp import web

    return web.Response(text=json.dumps(value), status=status, content_type="application/json")


def _error(status: HTTPStatus, text: str) -> web.Response:
    response = _json({"error": text}, status=status)
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers["Retry-After"] = _RETRY_AFTER_S
    return response
