"""All the sinks that the settings and the embedding program ask for, as one."""

from __future__ import annotations

from collections.abc import Callable

from edge_agent.outcomes import Correction, Outcome, Sink
from edge_agent.sinks.callback import CallbackSink
from edge_agent.sinks.json_lines import JsonLinesSink
from edge_agent.sinks.settings import OutcomeSettings


class Sinks:
    """All sinks as one."""

    def __init__(self, sinks: tuple[Sink, ...]) -> None:
        self._sinks = sinks

    def outcome(self, outcome: Outcome) -> None:
        for sink in self._sinks:
            sink.outcome(outcome)

    def correction(self, correction: Correction) -> None:
        for sink in self._sinks:
            sink.correction(correction)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()


def open_sinks(
    settings: OutcomeSettings,
    on_outcome: Callable[[Outcome], None] | None,
    on_correction: Callable[[Correction], None] | None,
) -> Sinks:
    """The sinks that the settings and the embedding program ask for."""
    sinks: list[Sink] = []
    if on_outcome or on_correction:
        sinks.append(CallbackSink(on_outcome, on_correction))
    if settings.path is not None:
        sinks.append(JsonLinesSink(settings))
    return Sinks(tuple(sinks))
