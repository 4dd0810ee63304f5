"""Samples that a web server gives when it is asked: a camera's snapshot, a sensor's value."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException, HTTPResponse
from threading import Event

from edge_agent.decoding import preprocess
from edge_agent.decoding.preprocess import Form
from edge_agent.sources.context import Captured, SourceContext
from edge_agent.sources.mailbox import all_of, fed
from edge_agent.sources.outage import Outage
from edge_agent.sources.settings import HttpSettings, WhenSlow
from shared import __version__
from shared.codec import Array
from shared.manifest import TensorSpec

_CHUNK_BYTES = 64 * 1024
_NOT_MODIFIED = 304


class Unanswered(Exception):
    """No answer, or one that is none: the server is away, slow, or says no."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server sent; `etag` and `modified` say whether the next one is another."""

    body: bytes
    content_type: str
    etag: str | None
    modified: str | None

    def decode(self, form: Form | None, fields: tuple[str, ...], spec: TensorSpec) -> Array:
        return preprocess.decode(self.body, form or preprocess.form_of(self.content_type), spec, fields=fields)

    def repeats(self, before: Answer) -> bool:
        validators = (self.etag, self.modified)
        return any(validators) and validators == (before.etag, before.modified)


Ask = Callable[[int], Answer | None]


def samples(
    settings: HttpSettings, context: SourceContext, stop: Event, *, ask: Ask | None = None
) -> Generator[Captured, None, None]:
    """What the URL gives, again and again; a server that is away is waited for.

    Args:
        ask: gives an answer of at most so many bytes (one more means: too many), None where nothing is new, or raises
            `Unanswered`.
    """
    polled = _polled(settings, context, stop, ask or _Client(settings).ask)
    if settings.when_slow is WhenSlow.BLOCK:
        return polled
    return fed(all_of(polled), settings, context, stop)


def _polled(settings: HttpSettings, context: SourceContext, stop: Event, ask: Ask) -> Generator[Captured, None, None]:
    outage = Outage(settings, context, stop)
    next_s, number = time.monotonic(), 0
    while not stop.wait(max(0.0, next_s - time.monotonic())):
        try:
            answer = ask(_largest(settings, context))
        except Unanswered as err:
            if not outage.wait(err):
                return
            continue
        outage.there()
        asked_s = time.monotonic()
        if answer is not None:
            yield Captured(partial(answer.decode, settings.payload, settings.fields), number)
            number += 1
            if time.monotonic() - asked_s > settings.interval_s:
                context.waited(1)
        # A server or a consumer that was late does not cause a burst afterwards.
        next_s = max(next_s + settings.interval_s, time.monotonic())


def _largest(settings: HttpSettings, context: SourceContext) -> int:
    spec = context.spec()
    return max(preprocess.max_bytes(form, spec) for form in ([settings.payload] if settings.payload else Form))


class _Client:
    """Asks one URL; knows what it answered before."""

    def __init__(self, settings: HttpSettings) -> None:
        self._settings = settings
        self._opener = _opener(settings)
        self._before: Answer | None = None

    def ask(self, max_bytes: int) -> Answer | None:
        """A new answer; None: nothing has changed.

        Raises:
            Unanswered: there is none.
        """
        try:
            with self._opener.open(self._request(), timeout=self._settings.timeout_s) as response:
                answer = self._read(response, max_bytes)
        except urllib.error.HTTPError as err:
            err.close()
            if err.code == _NOT_MODIFIED:
                return None
            raise Unanswered(f"{self._settings.url} answers {err.code} {err.reason}") from err
        # What a URL may hold, and a server may send, fails in many ways below urllib.
        except (OSError, HTTPException, ValueError) as err:
            raise Unanswered(f"{self._settings.url} does not answer: {err}") from err
        before, self._before = self._before, answer
        return None if before is not None and answer.repeats(before) else answer

    def _request(self) -> urllib.request.Request:
        request = urllib.request.Request(self._settings.url)  # noqa: S310  # the settings allow http and https only
        before = self._before
        if before is not None and before.etag:
            request.add_header("If-None-Match", before.etag)
        if before is not None and before.modified:
            request.add_header("If-Modified-Since", before.modified)
        # They may be secrets: where a redirect leads to does not learn them.
        for name, value in self._settings.headers.items():
            request.add_unredirected_header(name, value.get_secret_value())
        return request

    def _read(self, response: HTTPResponse, max_bytes: int) -> Answer:
        until_s = time.monotonic() + self._settings.timeout_s
        body = bytearray()
        while len(body) <= max_bytes and (chunk := response.read1(_CHUNK_BYTES)):
            body += chunk
            if time.monotonic() > until_s:
                raise TimeoutError(f"not whole after {self._settings.timeout_s} s")
        if response.length and len(body) <= max_bytes:
            raise ConnectionError(f"cut short: {response.length:,} bytes are missing")
        headers = response.headers
        return Answer(bytes(body), headers.get("Content-Type") or "", headers.get("ETag"), headers.get("Last-Modified"))


def _opener(settings: HttpSettings) -> urllib.request.OpenerDirector:
    """urllib's, without file:, ftp: and data:, where a redirect could lead."""
    opener = urllib.request.OpenerDirector()
    handlers: list[urllib.request.BaseHandler] = [
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ]
    if settings.username is not None:
        accounts = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        password = settings.password.get_secret_value() if settings.password else ""
        accounts.add_password(None, settings.url, settings.username, password)
        handlers += [urllib.request.HTTPBasicAuthHandler(accounts), urllib.request.HTTPDigestAuthHandler(accounts)]
    for handler in handlers:
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", f"edgeloop/{__version__}")]
    return opener
