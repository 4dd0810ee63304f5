"""An outcome is told before its correction, whichever thread comes first."""

from __future__ import annotations

import threading
from uuid import UUID

from edge_agent.outcomes import Correction, Outcome, Sink


class InOrder:
    """Tells an outcome before its correction: a fast cloud answers before the device has spoken. Thread-safe."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._lock = threading.Lock()
        self._held: dict[UUID, Correction | None] = {}

    def expect(self, sample_id: UUID) -> None:
        """This sample's outcome will be told; hold a correction back until then."""
        with self._lock:
            self._held[sample_id] = None

    def outcome(self, outcome: Outcome) -> None:
        self._sink.outcome(outcome)
        if not self._held:  # whoever expects this one has said so before, in this thread
            return
        with self._lock:
            correction = self._held.pop(outcome.sample_id, None)
        if correction is not None:
            self._sink.correction(correction)

    def correction(self, correction: Correction) -> None:
        with self._lock:
            held = correction.sample_id in self._held
            if held:
                self._held[correction.sample_id] = correction
        if not held:
            self._sink.correction(correction)
