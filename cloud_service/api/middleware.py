"""Every error leaves the API in one shape: problem+json (RFC 9457) with a remedy."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web

from cloud_service.api.resources import Problem
from shared.errors import EdgeloopError

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_REMEDIES = {
    400: "correct the request; GET /api/v1/openapi.json describes it",
    401: "send the header `Authorization: Bearer TOKEN`, with a token of the service's [http] token_file",
    404: "look at the path and the names in it; GET /api/v1/openapi.json lists what there is",
    405: "use one of the methods in the Allow header",
    409: "look at what is stored and choose another name or version",
    413: "send less; the limits are [http] max_body_bytes, max_import_bytes and max_model_bytes",
    415: "send the content type that GET /api/v1/openapi.json names",
    416: "ask for a range within the size that Content-Range states",
    422: "correct what the detail names; GET /api/v1/openapi.json describes the request",
    500: "this is a defect of the service: its log has the details",
    503: "try again; the service's log says what is down",
    507: "free some space on the service's disk",
}


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what a handler raises into a problem."""
    try:
        return await handler(request)
    except EdgeloopError as err:
        return problem(err.http_status, str(err))
    except web.HTTPException as err:
        if err.status < 400:
            raise
        allow = {"Allow": err.headers["Allow"]} if "Allow" in err.headers else None
        return problem(err.status, err.text or err.reason, headers=allow)
    # The caller went away, or the service is ending: nobody is left to answer.
    except (asyncio.CancelledError, ConnectionError):
        raise
    # A defect must not show its insides to the caller; the log gets them whole.
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return problem(500, "an unexpected error")


def problem(status: int, detail: str, *, headers: dict[str, str] | None = None) -> web.Response:
    """A problem response."""
    body = Problem(
        title=HTTPStatus(status).phrase, status=status, detail=detail, remedy=_REMEDIES.get(status, _REMEDIES[400])
    )
    return web.Response(
        text=body.model_dump_json(), status=status, content_type="application/problem+json", headers=headers
    )
