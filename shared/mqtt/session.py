"""Staying connected: a session on one connection after the other, and several tasks on one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from random import Random
from typing import Any

from shared.backoff import exponential, full_jitter
from shared.errors import BrokerUnavailable
from shared.mqtt.seam import Connection, Connector, Identity
from shared.mqtt.settings import BrokerSettings

log = logging.getLogger(__name__)

# So many connections in a row that broke within so long, while the broker takes new ones: not a bad line. Brokers
# should say "session taken over" to the client that they throw out; Mosquitto 2.0.11 and rumqttd only hang up.
_THROWN_OUT = 3
_THROWN_OUT_WITHIN_S = 10.0


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
    broken = 0
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
        broken = broken + 1 if began is not None and clock() - began < _THROWN_OUT_WITHIN_S else 0
        if broken == _THROWN_OUT:
            log.error(
                "broker %s: %d connections in a row broke at once: does another client use the id %s? "
                "Two of one id throw each other out for ever: give each its own name",
                settings.address,
                broken,
                identity.client_id,
            )
        if began is not None and clock() - began > bound:
            waits = exponential(settings.reconnect_first_s, settings.reconnect_cap_s)
        bound = next(waits)
        await sleep(full_jitter(bound, rng))


async def together(tasks: Mapping[str, Coroutine[Any, Any, None]]) -> None:
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
