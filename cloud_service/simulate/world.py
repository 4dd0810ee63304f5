"""What all devices of a run share, and what each of them keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TextIO
from uuid import UUID

from cloud_service.simulate.plan import Plan
from cloud_service.simulate.tally import Tally
from shared.codec import Array
from shared.messages import SampleHeader


@dataclass(frozen=True, slots=True)
class World:
    """What all devices of a run share."""

    plan: Plan
    tensors: Array
    tally: Tally
    rng: Random
    clock: Callable[[], float]
    journal: TextIO | None = None

    def note(self, event: str, sample_id: UUID) -> None:
        """A line in the journal."""
        if self.journal is not None:
            self.journal.write(f"{event} {sample_id}\n")


@dataclass(slots=True)
class Kept:
    """A sample that nobody has answered yet; `due` and `sent` are times of the clock."""

    header: SampleHeader
    row: int
    due: float
    sent: float = 0.0
    tries: int = 0
