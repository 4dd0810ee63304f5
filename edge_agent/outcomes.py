"""What the agent tells the world of each sample: an outcome at once, a correction when a verdict comes later."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from shared.messages import Action, Reason


class AnsweredBy(StrEnum):
    """Whose answer an outcome carries."""

    EDGE = "edge"
    CLOUD = "cloud"
    EDGE_AFTER_DEADLINE = "edge_after_deadline"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to one sample.

    Attributes:
        prediction: index of `label`; `edge_prediction` is the edge's own, which a verdict within the deadline replaces.
        confidence: the answering side's probability of it.
        hardness: the edge's score.
        reference: what the caller or source gave to know the sample by.
        infer_us: the model's run; `total_us`: all of `infer`, a wait for the verdict included.
    """

    sample_id: UUID
    task: str
    seq: int
    label: str
    prediction: int
    confidence: float
    answered_by: AnsweredBy
    edge_prediction: int
    hardness: float
    action: Action
    reason: Reason
    bundle_version: str
    reference: int | str | None
    infer_us: float
    total_us: float


@dataclass(frozen=True, slots=True)
class Correction:
    """A verdict on a sample that was answered already.

    Attributes:
        agreed: the edge had said the same.
        reference: as in the outcome; None after a restart in between.
    """

    sample_id: UUID
    task: str
    seq: int
    label: str
    prediction: int
    confidence: float
    agreed: bool
    bundle_version: str
    teacher: str
    reference: int | str | None


class Sink(Protocol):
    """Takes what the agent has to tell; called from the thread that ran the sample, or the uplink's."""

    def outcome(self, outcome: Outcome) -> None: ...

    def correction(self, correction: Correction) -> None: ...

    def close(self) -> None: ...
