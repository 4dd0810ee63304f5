"""Who may speak to the API: whoever sends one of the tokens in a file (RFC 6750), or, where there is no file, anybody.

Open to everybody in any case are the routes that say so: whether the service works, and the bundles under their hash,
which is told to nobody but the device that shall fetch one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from cloud_service.api.middleware import problem
from cloud_service.tokens import Tokens


def tokens_only(tokens: Tokens, open_paths: Sequence[str]) -> Middleware:
    """Lets requests through that have a token, and those for the open paths."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        is_open = resource is not None and resource.canonical in open_paths
        if is_open or tokens.admit(request.headers.get("Authorization", "")):
            return await handler(request)
        return problem(401, "this needs a token", headers={"WWW-Authenticate": 'Bearer realm="edgeloop"'})

    return check


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
