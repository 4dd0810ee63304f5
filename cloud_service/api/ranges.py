"""Sends a file that never changes: whole, in part (RFC 9110 §14), or not at all when the caller has it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import BinaryIO

from aiohttp import web

from cloud_service.api.middleware import problem
from cloud_service.errors import StoreError

_CHUNK = 1 << 18


async def send_file(request: web.Request, path: Path, *, etag: str) -> web.StreamResponse:
    """Answer a GET or HEAD for a file.

    A range is honoured when If-Range is absent or names this ETag; If-None-Match with this ETag gives 304.

    Raises:
        StoreError: the file is gone.
    """
    quoted = f'"{etag}"'
    headers = {"ETag": quoted, "Accept-Ranges": "bytes", "Cache-Control": "public, max-age=31536000, immutable"}
    if quoted in [tag.strip() for tag in request.headers.get("If-None-Match", "").split(",")]:
        return web.Response(status=304, headers=headers)
    try:
        file = await asyncio.to_thread(path.open, "rb")
    except OSError as err:
        raise StoreError(f"the file of bundle {etag} is gone from the service's disk: push the model again") from err
    with file:
        size = await asyncio.to_thread(os.path.getsize, path)
        part = range(size)
        ranged = "Range" in request.headers and request.headers.get("If-Range", quoted) == quoted
        if ranged:
            wanted = _range(request, size)
            if not wanted:
                return problem(416, f"the bundle has {size} bytes", headers={"Content-Range": f"bytes */{size}"})
            part = wanted
            headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
        response = web.StreamResponse(status=206 if ranged else 200, headers=headers)
        response.content_type = "application/octet-stream"
        response.content_length = len(part)
        await response.prepare(request)
        if request.method != "HEAD":
            await _send(response, file, part)
        await response.write_eof()
    return response


def _range(request: web.Request, size: int) -> range | None:
    """The bytes that a Range header asks for; None when there are none, or it asks for several ranges."""
    try:
        wanted = request.http_range
    except ValueError:
        return None
    return range(size)[wanted] or None


async def _send(response: web.StreamResponse, file: BinaryIO, part: range) -> None:
    await asyncio.to_thread(file.seek, part.start)
    left = len(part)
    while left and (chunk := await asyncio.to_thread(file.read, min(_CHUNK, left))):
        left -= len(chunk)
        await response.write(chunk)
