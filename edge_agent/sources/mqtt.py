"""Samples that others publish on an MQTT broker: sensors, Zigbee bridges, programs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from random import Random
from threading import Event
from typing import Any

from edge_agent.decoding import preprocess
from edge_agent.sources.context import Captured, SourceContext
from edge_agent.sources.mailbox import Feed, Put, fed
from edge_agent.sources.settings import MqttSettings
from shared.mqtt import BrokerSettings, Connection, Connector, Identity, Received, connector, keep_connected

_LOOK_S = 0.25


def samples(
    settings: MqttSettings, context: SourceContext, stop: Event, *, connect: Connector | None = None
) -> Generator[Captured, None, None]:
    """One sample a message, known by its topic; the broker is waited for when it is away.

    Args:
        connect: how to connect, for tests.
    """
    messages = fed(subscribed(settings.topic, settings.broker, context, stop, connect=connect), settings, context, stop)
    for message in messages:
        decode = partial(preprocess.decode, message.payload, settings.payload, fields=settings.fields)
        yield Captured(decode, message.topic)


def subscribed(
    topic: str,
    broker: BrokerSettings | None,
    context: SourceContext,
    stop: Event,
    *,
    connect: Connector | None = None,
) -> Feed[Received]:
    """A feed of the messages on a topic, in an event loop of its own; `broker` None: the agent's."""
    settings = broker or context.broker

    def feed(put: Put[Received]) -> None:
        asyncio.run(_until(stop, partial(_listen, topic, settings, context, put, connect or connector(settings))))

    return feed


async def _listen(
    topic: str, settings: BrokerSettings, context: SourceContext, put: Put[Received], connect: Connector
) -> None:
    async def session(connection: Connection) -> None:
        await connection.subscribe([topic])
        async for message in connection.messages():
            if not put(message):
                return

    identity = Identity(f"{context.client}-{context.name}")
    await keep_connected(connect, identity, session, settings=settings, rng=Random())  # noqa: S311  # no secrets


async def _until(stop: Event, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `work` until it ends or `stop` is set."""
    task = asyncio.create_task(work(), name="mqtt-source")
    while not stop.is_set() and not task.done():
        await asyncio.wait([task], timeout=_LOOK_S)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    if not task.cancelled():
        task.result()
