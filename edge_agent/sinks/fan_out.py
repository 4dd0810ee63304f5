"""All the sinks that the settings and the embedding program ask for, as one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from edge_agent.outcomes import Correction, Outcome, Sink
from edge_agent.sinks.callback import CallbackSink
from edge_agent.sinks.context import SinkContext
from edge_agent.sinks.json_lines import JsonLinesSink
from edge_agent.sinks.settings import OutcomeSettings

log = logging.getLogger(__name__)

Run = Callable[[], Coroutine[Any, Any, None]]


class Sinks:
    """All sinks as one.

    Args:
        runs: what has to run in the agent's event loop, by the sink's name.
    """

    def __init__(self, sinks: tuple[Sink, ...], runs: Mapping[str, Run] | None = None) -> None:
        self._sinks = sinks
        self._runs = runs or {}

    def outcome(self, outcome: Outcome) -> None:
        for sink in self._sinks:
            sink.outcome(outcome)

    def correction(self, correction: Correction) -> None:
        for sink in self._sinks:
            sink.correction(correction)

    def tasks(self) -> dict[str, Run]:
        """What has to run in the agent's event loop until it is cancelled; none of it ever fails."""
        return {f"sink-{name}": partial(_contained, name, run) for name, run in self._runs.items()}

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()


def open_sinks(
    settings: OutcomeSettings,
    on_outcome: Callable[[Outcome], None] | None,
    on_correction: Callable[[Correction], None] | None,
    context: SinkContext | None = None,
) -> Sinks:
    """The sinks that the settings and the embedding program ask for; those that need the network need `context`."""
    sinks: list[Sink] = []
    if on_outcome or on_correction:
        sinks.append(CallbackSink(on_outcome, on_correction))
    if settings.path is not None:
        sinks.append(JsonLinesSink(settings))
    network = _network_sinks(settings, context)
    runs = {name: run for name, (_, run) in network.items()}
    return Sinks((*sinks, *(sink for sink, _ in network.values())), runs)


def _network_sinks(settings: OutcomeSettings, context: SinkContext | None) -> dict[str, tuple[Sink, Run]]:
    """Each imported only where it is asked for: a device pays for what it uses."""
    found: dict[str, tuple[Sink, Run]] = {}
    if settings.mqtt is None and settings.webhook is None and not settings.home_assistant.enabled:
        return found
    if context is None:
        raise ValueError("a sink that needs the network needs a context")
    if settings.mqtt is not None:
        from edge_agent.sinks.mqtt import MqttSink

        mqtt = MqttSink(settings.mqtt, context)
        found["mqtt"] = (mqtt, mqtt.run)
    if settings.webhook is not None:
        from edge_agent.sinks.webhook import WebhookSink

        webhook = WebhookSink(settings.webhook, context)
        found["webhook"] = (webhook, webhook.run)
    if settings.home_assistant.enabled:
        from edge_agent.sinks.home_assistant import HomeAssistantSink

        home = HomeAssistantSink(settings.home_assistant, context)
        found["home-assistant"] = (home, home.run)
    return found


async def _contained(name: str, run: Run) -> None:
    try:
        await run()
    except Exception:  # whatever it was: a sink's fault must not end the uplink, which runs beside it
        log.exception(
            "the %s sink has ended by a fault of its own: nothing goes there until the agent is restarted", name
        )
