"""The seam to MQTT 5: a connection as an async context manager, its messages as an async iterator.

Everything else knows `Connection` and `Connector` only. A lost connection is an exception out of the iterator (and out
of `publish`); `keep_connected` is the one owner that comes back. `TCP_NODELAY` is always set: a QoS 1 round trip takes
44 ms without it and under 1 ms with it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Any, Protocol

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions
from pydantic import Field, SecretStr, model_validator

from shared.backoff import exponential, full_jitter
from shared.errors import BrokerUnavailable, ConnectionLost
from shared.settings import Section

log = logging.getLogger(__name__)

_SOCKET_OPTIONS = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),)
# aiomqtt waits this long for a broker's answer before it calls the connection lost. The first answer gets less: that a
# broker closed the connection before it, as one that is just ending does, goes unnoticed by aiomqtt until the timeout.
_ANSWER_TIMEOUT_S = 20.0
_CONNECT_TIMEOUT_S = 5.0
# What waits to be written adds to it, at this rate: on a slow line the last of many publishes is late, not lost.
_SLOWEST_LINE_BYTES_S = 8_000


class BrokerSettings(Section):
    """Where the broker is and how to speak to it.

    Attributes:
        host, port: the broker's address.
        username, password: where the broker asks for them.
        ca_file: certificate authority of the broker; given: the connection is TLS.
        cert_file, key_file: this client's own certificate, where the broker asks for one.
        keepalive_s: without a sign of life for 1.5 times this, the broker publishes the last will.
        reconnect_first_s, reconnect_cap_s: bounds of the first and of the longest wait between two tries.
        in_flight: QoS 1 messages under way at once; 100 carries 2,874 msg/s at 20 ms round trip, 1 carries 44.
    """

    host: Annotated[str, Field(min_length=1, max_length=253)] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 1883
    username: str | None = None
    password: SecretStr | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    keepalive_s: Annotated[int, Field(ge=5, le=3600)] = 30
    in_flight: Annotated[int, Field(ge=1, le=65535)] = 100
    reconnect_first_s: Annotated[float, Field(gt=0)] = 0.5
    reconnect_cap_s: Annotated[float, Field(gt=0)] = 60.0

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def relative_to(self, folder: Path) -> BrokerSettings:
        """The same, its relative file names below `folder`."""
        names = ("ca_file", "cert_file", "key_file")
        return self.model_copy(update={n: folder / file for n in names if (file := getattr(self, n)) is not None})

    @model_validator(mode="after")
    def _fit_together(self) -> BrokerSettings:
        if self.reconnect_first_s > self.reconnect_cap_s:
            raise ValueError("reconnect_first_s is above reconnect_cap_s")
        if (self.cert_file or self.key_file) and not (self.ca_file and self.cert_file):
            raise ValueError("a certificate needs cert_file and ca_file: without ca_file nothing is encrypted")
        if self.password and not self.username:
            raise ValueError("a password needs a username")
        return self


@dataclass(frozen=True, slots=True)
class Received:
    """A message as it came in."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes (QoS 1, retained) when this client vanishes."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client is.

    Attributes:
        session_expiry_s: how long the broker keeps the session and queues QoS 1 messages after a disconnect.
    """

    client_id: str
    will: Will | None = None
    session_expiry_s: int = 0
    max_queued: int = 10_000


class Connection(Protocol):
    """An open connection."""

    async def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> None:
        """Return when the broker has it (QoS 1) or it was written (QoS 0).

        Raises:
            ConnectionLost: whether the broker has it is unknown.
        """
        ...

    async def subscribe(self, filters: Sequence[str]) -> None:
        """Ask for these topics at QoS 1.

        Raises:
            BrokerUnavailable: the broker refused one of them.
            ConnectionLost: the broker went away.
        """
        ...

    def messages(self) -> AsyncIterator[Received]:
        """What comes in, one reader at a time; raises `ConnectionLost` when the broker goes away."""
        ...


Connector = Callable[[Identity], AbstractAsyncContextManager[Connection]]


def connector(settings: BrokerSettings) -> Connector:
    """Connections to the broker that the settings name."""

    @asynccontextmanager
    async def connect(identity: Identity) -> AsyncIterator[Connection]:
        client = _client(settings, identity)
        try:
            await client.__aenter__()
        except aiomqtt.MqttError as err:
            raise BrokerUnavailable(
                f"no MQTT broker answers at {settings.address} ({err}): start it, or correct [broker]"
            ) from err
        client.timeout = _ANSWER_TIMEOUT_S
        connection = _AiomqttConnection(client)
        try:
            yield connection
        finally:
            connection.give_up()
            try:
                await client.__aexit__(None, None, None)
            except aiomqtt.MqttError as err:
                log.debug("the connection to %s did not close in order: %s", settings.address, err)

    return connect


async def keep_connected(
    connect: Connector,
    identity: Identity,
    session: Callable[[Connection], Awaitable[None]],
    *,
    settings: BrokerSettings,
    rng: Random,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Run `session` on a connection, again and again, until it returns; the one owner of reconnecting.

    The outage is logged once and its end once; the waits grow exponentially, with full jitter. They start anew only
    after a session that outlived its last wait's bound, so that a broker which accepts and refuses is not hammered.
    """
    waits: Iterator[float] = exponential(settings.reconnect_first_s, settings.reconnect_cap_s)
    bound = 0.0
    out = False
    while True:
        began = None
        try:
            async with connect(identity) as connection:
                began = clock()
                if out:
                    log.info("broker %s: connected again", settings.address)
                out = False
                await session(connection)
                return
        except BrokerUnavailable as err:
            if not out:
                log.warning("broker %s: %s; nothing is lost, trying again until it answers", settings.address, err)
            out = True
        if began is not None and clock() - began > bound:
            waits = exponential(settings.reconnect_first_s, settings.reconnect_cap_s)
        bound = next(waits)
        await sleep(full_jitter(bound, rng))


async def together(**tasks: Coroutine[Any, Any, None]) -> None:
    """Run named tasks until all end or one fails; a lost broker comes out as itself, not inside a group.

    Raises:
        BrokerUnavailable: when that is all that went wrong.
        ExceptionGroup: anything else.
    """
    running = [asyncio.create_task(task, name=name) for name, task in tasks.items()]
    # Not a TaskGroup: before Python 3.13 it swallows a cancellation that meets the failure of one of its tasks, and a
    # client that is told to end in the moment its broker goes away would never end.
    try:
        await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    errors = [err for task in running if not task.cancelled() and (err := task.exception())]
    if not errors:
        return
    failures = BaseExceptionGroup("unhandled errors in tasks that ran together", errors)
    lost, others = failures.split(BrokerUnavailable)
    if lost is None or others is not None:
        raise failures
    raise _first_leaf(lost)


def _first_leaf(group: BaseExceptionGroup[BrokerUnavailable]) -> BrokerUnavailable:
    first = group.exceptions[0]
    return _first_leaf(first) if isinstance(first, BaseExceptionGroup) else first


class _AiomqttConnection:
    """Tells a publish that waits for the broker's acknowledgement as soon as the reader finds the connection lost."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self._client = client
        self._waiting: set[asyncio.Timeout] = set()
        self._waiting_bytes = 0

    async def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> None:
        try:
            async with asyncio.timeout(None) as limit:
                self._waiting.add(limit)
                self._waiting_bytes += len(payload)
                patience = _ANSWER_TIMEOUT_S + self._waiting_bytes / _SLOWEST_LINE_BYTES_S
                try:
                    await self._client.publish(topic, payload, qos=qos, retain=retain, timeout=patience)
                finally:
                    self._waiting.discard(limit)
                    self._waiting_bytes -= len(payload)
        except (aiomqtt.MqttError, TimeoutError) as err:
            raise ConnectionLost(f"connection lost while publishing to {topic}: {err}") from err

    async def subscribe(self, filters: Sequence[str]) -> None:
        try:
            codes = await self._client.subscribe([(name, SubscribeOptions(qos=1)) for name in filters])
        except aiomqtt.MqttError as err:
            raise ConnectionLost(f"connection lost while subscribing: {err}") from err
        for name, code in zip(filters, codes, strict=True):
            if getattr(code, "is_failure", False):
                raise BrokerUnavailable(f"the broker refused the subscription to {name}: {code}")

    async def messages(self) -> AsyncIterator[Received]:
        try:
            async for message in self._client.messages:
                yield Received(str(message.topic), message.payload)
        except aiomqtt.MqttError as err:
            self.give_up()
            raise ConnectionLost(f"connection lost: {err}") from err

    def give_up(self) -> None:
        """End the publishes that wait: aiomqtt itself would let each wait until its timeout."""
        now = asyncio.get_running_loop().time()
        while self._waiting:
            self._waiting.pop().reschedule(now)


def _client(settings: BrokerSettings, identity: Identity) -> aiomqtt.Client:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's Properties is untyped
    properties.SessionExpiryInterval = identity.session_expiry_s
    properties.ReceiveMaximum = settings.in_flight
    will = identity.will
    client = aiomqtt.Client(
        settings.host,
        settings.port,
        identifier=identity.client_id,
        username=settings.username,
        password=settings.password.get_secret_value() if settings.password else None,
        protocol=aiomqtt.ProtocolVersion.V5,
        clean_start=identity.session_expiry_s == 0,
        properties=properties,
        will=aiomqtt.Will(will.topic, will.payload, qos=1, retain=True) if will else None,
        tls_params=_tls(settings),
        keepalive=settings.keepalive_s,
        timeout=_CONNECT_TIMEOUT_S,
        max_inflight_messages=settings.in_flight,
        max_queued_incoming_messages=identity.max_queued,
        socket_options=_SOCKET_OPTIONS,
    )
    client.pending_calls_threshold = settings.in_flight * 2
    return client


def _tls(settings: BrokerSettings) -> aiomqtt.TLSParameters | None:
    if settings.ca_file is None:
        return None
    return aiomqtt.TLSParameters(
        ca_certs=str(settings.ca_file),
        certfile=str(settings.cert_file) if settings.cert_file else None,
        keyfile=str(settings.key_file) if settings.key_file else None,
    )
