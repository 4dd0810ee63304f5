"""Outcomes as JSON on an MQTT topic, by a connection of their own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from edge_agent.outcomes import Correction, Outcome
from edge_agent.sinks.context import SinkContext
from edge_agent.sinks.handover import Handover
from edge_agent.sinks.records import Filter, Record, kind_of, to_json
from edge_agent.sinks.settings import MqttOutcomeSettings
from shared.errors import BrokerUnavailable
from shared.mqtt import Connection, Identity, keep_connected, together

log = logging.getLogger(__name__)

_AT_ONCE = 50
_FAREWELL_S = 1.0


class MqttSink:
    """`run` in the agent's event loop sends what the other methods are told, from any thread."""

    def __init__(self, settings: MqttOutcomeSettings, context: SinkContext) -> None:
        self._settings, self._context = settings, context
        self._filter = Filter(settings.only)
        self._broker = settings.broker or context.broker
        self._handover = Handover(f"the broker at {self._broker.address}", max_queued=settings.max_queued)

    def outcome(self, outcome: Outcome) -> None:
        if self._filter.takes(outcome):
            self._handover.put(outcome)

    def correction(self, correction: Correction) -> None:
        if self._filter.takes(correction):
            self._handover.put(correction)

    def close(self) -> None:
        if left := len(self._handover):
            log.warning("outcomes not sent to %s before the end: %d", self._broker.address, left)

    async def run(self) -> None:
        """Send until cancelled; then what waits has a second to go out."""
        context = self._context
        identity = Identity(context.client_id("outcomes"))
        connect = context.connect(self._broker)
        await keep_connected(connect, identity, self._session, settings=self._broker, rng=context.rng)

    async def _session(self, connection: Connection) -> None:
        try:
            await together({"send": self._send(connection), "listen": _listen(connection)})
        except asyncio.CancelledError:
            with suppress(TimeoutError, BrokerUnavailable):
                async with asyncio.timeout(_FAREWELL_S):
                    while records := self._handover.take_now(_AT_ONCE):
                        await self._publish(connection, records)
            raise

    async def _send(self, connection: Connection) -> None:
        while True:
            await self._publish(connection, await self._handover.take(_AT_ONCE))

    async def _publish(self, connection: Connection, records: Sequence[Record]) -> None:
        """Publish all at once, in order; what the broker may not have is put back.

        Raises:
            ConnectionLost: the broker went away.
        """
        sending = [asyncio.ensure_future(self._publish_one(connection, record)) for record in records]
        try:
            results = await asyncio.gather(*sending, return_exceptions=True)
        except asyncio.CancelledError:
            self._handover.put_back(records)
            raise
        failed = [record for record, result in zip(records, results, strict=True) if result is not None]
        self._handover.put_back(failed)
        for result in results:
            if result is not None:
                raise result

    async def _publish_one(self, connection: Connection, record: Record) -> None:
        settings, origin = self._settings, self._context.origin
        topic = settings.topic.format(task=record.task, kind=kind_of(record), **origin)
        payload = to_json(record, origin=origin).encode()
        self._context.book(len(payload), settings.counts_in_day)
        await connection.publish(topic, payload, qos=settings.qos, retain=settings.retain_last)


async def _listen(connection: Connection) -> None:
    """Nothing comes in, but a lost connection is noticed here while nothing goes out."""
    async for _ in connection.messages():
        pass
