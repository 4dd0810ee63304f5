"""What becomes of a sample: pure rules, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from edge_agent.deciding.hardness import Hardness
from shared.messages import Action, Reason


class OffloadMode(StrEnum):
    """What may leave the device."""

    NEVER = "never"
    HARD = "hard"
    HARD_AND_AUDIT = "hard+audit"


@dataclass(frozen=True, slots=True)
class Decision:
    """Attributes:
    inclusion_probability: chance that a sample like this one is offloaded; 0 when it is not.
    """

    action: Action
    reason: Reason
    inclusion_probability: float = 0.0


def decide(hardness: Hardness, *, mode: OffloadMode, audit_fraction: float, draw: float) -> Decision:
    """Apply the rules in order; the first that fits decides.

    Args:
        draw: a number drawn evenly from [0, 1), for the audit.
    """
    if mode is OffloadMode.NEVER:
        return Decision(Action.KEEP, Reason.PRIVATE if hardness.hard else Reason.CONFIDENT)
    if not hardness.valid:
        return Decision(Action.OFFLOAD, Reason.INVALID_OUTPUT, 1.0)
    if hardness.hard:
        return Decision(Action.OFFLOAD, Reason.HARD, 1.0)
    if mode is OffloadMode.HARD_AND_AUDIT and draw < audit_fraction:
        return Decision(Action.OFFLOAD, Reason.AUDIT, audit_fraction)
    return Decision(Action.KEEP, Reason.CONFIDENT)
