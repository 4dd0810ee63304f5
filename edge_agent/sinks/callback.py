"""Outcomes handed to functions of the embedding program."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from edge_agent.outcomes import Correction, Outcome

log = logging.getLogger(__name__)


class CallbackSink:
    """Hands each record to a function of the embedding program; what that raises is logged, once a kind."""

    def __init__(
        self, on_outcome: Callable[[Outcome], None] | None, on_correction: Callable[[Correction], None] | None
    ) -> None:
        self._on_outcome = on_outcome
        self._on_correction = on_correction
        self._said: set[type[BaseException]] = set()

    def outcome(self, outcome: Outcome) -> None:
        self._call(self._on_outcome, outcome)

    def correction(self, correction: Correction) -> None:
        self._call(self._on_correction, correction)

    def close(self) -> None:
        """Nothing to let go."""

    def _call(self, function: Callable[[Any], None] | None, record: object) -> None:
        if function is None:
            return
        try:
            function(record)
        except Exception as err:  # the embedding program's own code: its mistakes must not stop the device
            if type(err) not in self._said:
                self._said.add(type(err))
                log.exception("the program's callback raised; more of this kind are not logged")
