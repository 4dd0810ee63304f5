"""Outcomes as JSON, posted to a URL: what is not taken waits, in bounds, and is tried again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from random import Random
from urllib.parse import urlsplit

from edge_agent.errors import ReceiverAway
from edge_agent.outcomes import Correction, Outcome
from edge_agent.sinks.context import SinkContext
from edge_agent.sinks.handover import Handover
from edge_agent.sinks.records import Filter, Record, to_json
from edge_agent.sinks.settings import WebhookSettings
from shared.backoff import exponential, full_jitter

log = logging.getLogger(__name__)

_FAREWELL_S = 1.0
_AWAY = frozenset({408, 425, 429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Reply:
    """Attributes:
    retry_after_s: how long the receiver wants to be left alone; None: it did not say.
    """

    status: int
    retry_after_s: float | None = None


# The outside world: posts a body; raises `ReceiverAway` where nobody answers.
Post = Callable[[bytes], Awaitable[Reply]]


class Result(Enum):
    """What a reply means for the records that were posted."""

    TAKEN = auto()
    AWAY = auto()
    FAILED = auto()
    REFUSED = auto()


def meaning(status: int) -> Result:
    """Away: try again for as long as it takes; failed: a few times; refused: never."""
    if 200 <= status < 300:
        return Result.TAKEN
    if status in _AWAY:
        return Result.AWAY
    return Result.FAILED if status >= 500 else Result.REFUSED


class WebhookSink:
    """`run` in the agent's event loop posts what the other methods are told, from any thread."""

    def __init__(
        self,
        settings: WebhookSettings,
        context: SinkContext,
        *,
        opened: Callable[[WebhookSettings], AbstractAsyncContextManager[Post]] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`opened`, `sleep`: the outside world, for tests."""
        self._settings, self._origin, self._book = settings, context.origin, context.book
        self._rng: Random = context.rng
        self._opened, self._sleep = opened or http_post, sleep
        self._host = urlsplit(settings.url).hostname or "the webhook"
        self._filter = Filter(settings.only)
        self._handover = Handover(self._host, max_queued=settings.max_queued)
        self._said: str | None = None

    def outcome(self, outcome: Outcome) -> None:
        if self._filter.takes(outcome):
            self._handover.put(outcome)

    def correction(self, correction: Correction) -> None:
        if self._filter.takes(correction):
            self._handover.put(correction)

    def close(self) -> None:
        if left := len(self._handover):
            log.warning("outcomes not posted to %s before the end: %d", self._host, left)

    async def run(self) -> None:
        """Post until cancelled; then what waits has a second to go out."""
        async with self._opened(self._settings) as post:
            try:
                while True:
                    await self._deliver(post, await self._handover.take(self._settings.batch))
            except asyncio.CancelledError:
                with suppress(TimeoutError, ReceiverAway):
                    async with asyncio.timeout(_FAREWELL_S):
                        await self._farewell(post)
                raise

    async def _deliver(self, post: Post, records: Sequence[Record]) -> None:
        """Post until they are taken or given up."""
        settings = self._settings
        body = self._body(records)
        waits = exponential(settings.retry_first_s, settings.retry_cap_s)
        failures = 0
        try:
            while True:
                result, retry_after_s = await self._try(post, body)
                failures += result is Result.FAILED
                if result is Result.TAKEN:
                    return
                if result is Result.REFUSED or failures == settings.tries:
                    self._handover.lose(len(records))
                    return
                asked = min(retry_after_s or 0.0, settings.retry_cap_s)
                await self._sleep(asked + full_jitter(next(waits), self._rng))
        except asyncio.CancelledError:
            self._handover.put_back(records)
            raise

    async def _try(self, post: Post, body: bytes) -> tuple[Result, float | None]:
        self._book(len(body), self._settings.counts_in_day)
        try:
            reply = await post(body)
        except ReceiverAway as err:
            self._say(f"does not answer ({err}): outcomes wait, and are tried again")
            return Result.AWAY, None
        result = meaning(reply.status)
        match result:
            case Result.TAKEN:
                self._say(None)
            case Result.AWAY:
                self._say(f"is away (HTTP {reply.status}): outcomes wait, and are tried again")
            case Result.FAILED:
                self._say(f"fails (HTTP {reply.status}): each is tried {self._settings.tries} times, then dropped")
            case Result.REFUSED:
                self._say(f"refuses outcomes (HTTP {reply.status}), which are dropped: correct [outcomes.webhook]")
        return result, reply.retry_after_s

    def _say(self, trouble: str | None) -> None:
        """Log when the trouble begins, changes or ends."""
        if trouble == self._said:
            return
        self._said = trouble
        if trouble is None:
            log.info("webhook: %s takes outcomes again", self._host)
        else:
            log.warning("webhook: %s %s", self._host, trouble)

    async def _farewell(self, post: Post) -> None:
        while records := self._handover.take_now(self._settings.batch):
            taken, body = False, self._body(records)
            self._book(len(body), self._settings.counts_in_day)
            try:
                taken = meaning((await post(body)).status) is Result.TAKEN
            finally:
                if not taken:
                    self._handover.put_back(records)
            if not taken:
                return

    def _body(self, records: Sequence[Record]) -> bytes:
        texts = [to_json(record, origin=self._origin) for record in records]
        return (texts[0] if self._settings.batch == 1 else f"[{','.join(texts)}]").encode()


@asynccontextmanager
async def http_post(settings: WebhookSettings) -> AsyncIterator[Post]:
    """Posts over HTTP. aiohttp is imported here: without a webhook it costs no memory."""
    import aiohttp

    headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
    headers = {"Content-Type": "application/json"} | headers
    timeout = aiohttp.ClientTimeout(total=settings.timeout_s)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:

        async def post(body: bytes) -> Reply:
            try:
                async with session.post(settings.url, data=body, allow_redirects=False) as answer:
                    return Reply(answer.status, _seconds(answer.headers.get("Retry-After")))
            # A ValueError (or UnicodeError) is what a host's impossible name raises.
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as err:
                # What the system says names the host; what aiohttp says may name the whole URL, which may be a secret.
                said = str(err) if isinstance(err, OSError) else ""
                raise ReceiverAway(said or type(err).__name__) from err

        yield post


def _seconds(retry_after: str | None) -> float | None:
    """The header's number of seconds; its other form, a date, needs a clock that devices may lack."""
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
