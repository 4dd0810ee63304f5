"""How the command line and the demo speak to a running service; an error that the API answers is raised here.

Synchronous and of the standard library alone, so that a command is quick.
"""

from __future__ import annotations

import http.client
import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from http.client import HTTPMessage, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from cloud_service.cli_words import as_command
from cloud_service.errors import Conflict, NotFound, RequestInvalid, StoreError, Unauthorized
from shared import atomic
from shared.errors import EdgeloopError, StorageFull

_TIMEOUT_S = 120.0
_CHUNK = 1 << 18
_BY_STATUS: Mapping[int, type[EdgeloopError]] = {
    401: Unauthorized,
    404: NotFound,
    409: Conflict,
    413: RequestInvalid,
    422: RequestInvalid,
    503: StoreError,
    507: StorageFull,
}


class ServiceUnreachable(EdgeloopError):
    """No service answers at the address."""

    exit_code = 69
    http_status = 503


class Client:
    """Calls the management API at `url`, with a token where it wants one.

    Every method raises `ServiceUnreachable` when nothing answers there, and `EdgeloopError` with the API's own detail
    when it refuses.
    """

    def __init__(self, url: str, *, token: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._token = token

    def health(self) -> dict[str, Any] | None:
        """What /healthz says; None when nothing answers (yet)."""
        try:
            return self.get("/healthz")
        except ServiceUnreachable:
            return None

    def get(self, path: str, query: Mapping[str, object] | None = None) -> dict[str, Any]:
        """A resource; query values that are None are left out."""
        return self._json("GET", _with(path, query))

    def post(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        """Send a JSON body."""
        data = json.dumps(body).encode()
        return self._json("POST", path, data=data, headers={"Content-Type": "application/json"})

    def send(
        self, path: str, content: bytes, *, kind: str, query: Mapping[str, object] | None = None
    ) -> dict[str, Any]:
        """Send a body of the given type."""
        return self._json("POST", _with(path, query), data=content, headers={"Content-Type": kind})

    def delete(self, path: str, query: Mapping[str, object] | None = None) -> dict[str, Any]:
        """Delete (a job: cancel) a resource."""
        return self._json("DELETE", _with(path, query))

    def stream(self, path: str, query: Mapping[str, object] | None = None, *, accept: str = "*/*") -> Iterator[bytes]:
        """What a path gives, in parts."""
        with self._open("GET", _with(path, query), headers={"Accept": accept}) as answer:
            yield from self._parts(answer)

    def upload_bundle(self, file: Path) -> dict[str, Any]:
        """Put a bundle file into the registry."""
        return self._upload({"bundle": file})

    def upload_model(self, file: Path, description: Path) -> dict[str, Any]:
        """Put an ONNX classifier with its description into the registry."""
        return self._upload({"model": file, "description": description})

    def save(
        self, path: str, target: Path, *, query: Mapping[str, object] | None = None, accept: str = "*/*"
    ) -> HTTPMessage:
        """Write what a path gives into a file, whole or not at all; returns the answer's headers.

        Raises:
            RequestInvalid: the file cannot be written.
            StorageFull: the disk took no more.
        """
        try:
            with (
                atomic.replacing(target) as file,
                self._open("GET", _with(path, query), headers={"Accept": accept}) as answer,
            ):
                file.writelines(self._parts(answer))
                return answer.headers
        except OSError as err:
            raise RequestInvalid(f"cannot write {target}: {err.strerror}") from err

    def download_bundle(self, task: str, version: str, target: Path) -> None:
        """Fetch a bundle file; raises like `save`."""
        self.save(f"/api/v1/models/{quote(task)}/{quote(version)}/bundle", target)

    def _parts(self, answer: HTTPResponse) -> Iterator[bytes]:
        try:
            while part := answer.read(_CHUNK):
                yield part
        except (http.client.HTTPException, OSError) as err:
            raise ServiceUnreachable(
                f"{self.url} broke off in the middle ({type(err).__name__}): its log says why; try again"
            ) from err

    def _upload(self, files: Mapping[str, Path]) -> dict[str, Any]:
        boundary = secrets.token_hex(16)
        heads = {
            name: f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n".encode()
            for name in files
        }
        tail = f"--{boundary}--\r\n".encode()
        try:
            sizes = sum(len(heads[name]) + path.stat().st_size + 2 for name, path in files.items())
        except OSError as err:
            raise RequestInvalid(f"cannot read {err.filename}: {err.strerror}") from err
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(sizes + len(tail)),
        }
        return self._json("POST", "/api/v1/models", data=_multipart(files, heads, tail), headers=headers)

    def _json(
        self,
        method: str,
        path: str,
        *,
        data: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        with self._open(method, path, data=data, headers=headers) as answer:
            try:
                value: dict[str, Any] = json.loads(answer.read())
            except (ValueError, http.client.HTTPException, OSError) as err:
                raise ServiceUnreachable(f"what answers at {self.url} is no edgeloop service: {err}") from err
        return value

    def _open(
        self,
        method: str,
        path: str,
        *,
        data: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HTTPResponse:
        try:
            request = urllib.request.Request(self.url + path, data, dict(headers or {}), method=method)  # noqa: S310  # the user's own address
            if self._token is not None:
                # Not to whatever else an answer refers to.
                request.add_unredirected_header("Authorization", f"Bearer {self._token}")
            answer: HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT_S)  # noqa: S310  # see above
        except urllib.error.HTTPError as err:
            with err:
                raise _refusal(err.code, err.read()) from None
        except (OSError, http.client.HTTPException) as err:
            reason = getattr(err, "reason", err)
            raise ServiceUnreachable(
                f"no edgeloop service answers at {self.url} ({reason}): start it, or give --url"
            ) from err
        except ValueError as err:
            raise RequestInvalid(f"{self.url!r} is no address: give one like http://127.0.0.1:8080") from err
        return answer


def _with(path: str, query: Mapping[str, object] | None) -> str:
    """The path with a query; what is None is left out, and yes and no are written as JSON has them."""
    given = {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in (query or {}).items()
        if value is not None
    }
    return path + (f"?{urlencode(given)}" if given else "")


def _multipart(files: Mapping[str, Path], heads: Mapping[str, bytes], tail: bytes) -> Iterator[bytes]:
    for name, path in files.items():
        yield heads[name]
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
        yield b"\r\n"
    yield tail


def _refusal(status: int, content: bytes) -> EdgeloopError:
    try:
        problem = json.loads(content)
        words = as_command(status, problem["detail"])
    except (ValueError, KeyError, TypeError, AttributeError):
        words = f"the address answers with status {status}, but not as an edgeloop service does"
    return _BY_STATUS.get(status, EdgeloopError)(words)
