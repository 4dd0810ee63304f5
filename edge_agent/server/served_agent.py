"""What the local server needs of the agent behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from edge_agent.outcomes import Outcome
from shared.codec import Array
from shared.manifest import Manifest
from shared.messages import Telemetry


class ServedAgent(Protocol):
    """Every method is called from any thread."""

    def infer(
        self,
        tensor: Array,
        *,
        task: str | None = None,
        deadline: float | None = None,
        reference: int | str | None = None,
    ) -> Outcome:
        """Answer one sample; blocks for the deadline at most.

        Raises:
            EdgeloopError: the sample cannot be answered.
        """
        ...

    def manifests(self) -> Mapping[str, Manifest]:
        """What each task's next sample will meet."""
        ...

    def ready(self) -> bool:
        """Whether every task answers."""
        ...

    def telemetry(self) -> Telemetry:
        """Counts, bytes, what waits, and what the sensors say."""
        ...
