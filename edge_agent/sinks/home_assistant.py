"""The agent as a device in Home Assistant: announced by MQTT discovery, its sensors and last predictions kept up."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from pydantic import JsonValue

from edge_agent.outcomes import AnsweredBy, Correction, Outcome
from edge_agent.sinks import discovery
from edge_agent.sinks.context import SinkContext
from edge_agent.sinks.discovery import OFFLINE, ONLINE, Place
from edge_agent.sinks.settings import HomeAssistantSettings
from shared.errors import BrokerUnavailable
from shared.mqtt import Connection, Identity, Will, keep_connected, together

log = logging.getLogger(__name__)

_FAREWELL_S = 1.0


class HomeAssistantSink:
    """Keeps the last outcome of each task, whatever thread tells it; `run` in the agent's event loop publishes."""

    def __init__(
        self,
        settings: HomeAssistantSettings,
        context: SinkContext,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`sleep`: for tests."""
        self._context, self._sleep, self._counts_in_day = context, sleep, settings.counts_in_day
        self._place = Place(settings.discovery_prefix, settings.base_topic, context.site, context.device)
        self._broker = settings.broker or context.broker
        self._interval_s = min(settings.min_interval_s, context.telemetry_interval_s)
        # Everything is told anew once in so many rounds; in the others only what changed.
        self._rounds = max(1, round(context.telemetry_interval_s / self._interval_s))
        self._sensors = discovery.sensors(self._place)
        self._predictions = {task: discovery.prediction(self._place, task) for task in context.tasks}
        self._last: dict[str, Outcome] = {}
        self._told: dict[str, str] = {}
        self._announced: set[str] = set()
        self._round = 0

    def outcome(self, outcome: Outcome) -> None:
        self._last[outcome.task] = outcome

    def correction(self, correction: Correction) -> None:
        last = self._last.get(correction.task)
        if last is not None and last.sample_id == correction.sample_id:
            self._last[correction.task] = replace(
                last,
                label=correction.label,
                prediction=correction.prediction,
                confidence=correction.confidence,
                answered_by=AnsweredBy.CLOUD,
            )

    def close(self) -> None:
        """Nothing to let go."""

    async def run(self) -> None:
        """Stay announced until cancelled, then say `offline`."""
        context = self._context
        identity = Identity(context.client_id("home"), will=Will(self._place.availability, OFFLINE))
        connect = context.connect(self._broker)
        await keep_connected(connect, identity, self._session, settings=self._broker, rng=context.rng)

    async def _session(self, connection: Connection) -> None:
        # Another broker may have come up in the place of the last one, with nothing retained.
        self._forget()
        try:
            await connection.subscribe([self._place.home_status, self._place.every_config])
            await together({"tell": self._tell(connection), "listen": self._listen(connection)})
        except asyncio.CancelledError:
            with suppress(TimeoutError, BrokerUnavailable):
                async with asyncio.timeout(_FAREWELL_S):
                    await self._retain(connection, self._place.availability, OFFLINE)
            raise

    async def _tell(self, connection: Connection) -> None:
        while True:
            if self._round % self._rounds == 0:
                self._told.clear()
                await self._tell_sensors(connection)
            self._round += 1
            await self._tell_predictions(connection)
            await self._sleep(self._interval_s)

    async def _tell_sensors(self, connection: Connection) -> None:
        state = discovery.state(self._context.telemetry())
        for key, entity in self._sensors.items():
            if state[key] is not None:
                await self._announce(connection, entity)
        for entity in self._predictions.values():
            await self._announce(connection, entity)
        await self._retain(connection, self._place.availability, ONLINE)
        await self._retain(connection, self._place.state, _json(state))

    async def _tell_predictions(self, connection: Connection) -> None:
        for task, outcome in list(self._last.items()):
            # A correction changes the label; the same label again can wait for the next full round.
            if self._told.get(task) != outcome.label:
                await self._retain(connection, self._place.prediction(task), _json(discovery.last_prediction(outcome)))
                self._told[task] = outcome.label

    async def _announce(self, connection: Connection, entity: discovery.Entity) -> None:
        if entity.object_id in self._announced:
            return
        await self._retain(connection, self._place.config(entity), _json(entity.config))
        self._announced.add(entity.object_id)

    async def _listen(self, connection: Connection) -> None:
        """Announce anew when Home Assistant has started; remove what an earlier run announced and this one lacks."""
        known = {self._place.config(entity) for entity in (*self._sensors.values(), *self._predictions.values())}
        async for message in connection.messages():
            if message.topic == self._place.home_status:
                if message.payload == ONLINE:
                    self._forget()
            elif message.payload and message.topic not in known:
                log.info("home assistant: %s is no more, its entity is removed", message.topic)
                await self._retain(connection, message.topic, b"")

    def _forget(self) -> None:
        """Tell everything in the next round."""
        self._announced.clear()
        self._round = 0

    async def _retain(self, connection: Connection, topic: str, payload: bytes) -> None:
        self._context.book(len(payload), self._counts_in_day)
        await connection.publish(topic, payload, qos=1, retain=True)


def _json(value: Mapping[str, JsonValue]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
