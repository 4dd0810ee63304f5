"""What becomes of a sample: pure rules, each with its reason.

In two steps, since most samples need the first alone: `select` says whether a sample should go up at all; `place` what
becomes of one that should: hardness × resources × link × budget → offload now, defer, keep or drop.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum

from edge_agent.deciding.hardness import Hardness
from edge_agent.deciding.pressure import Measure
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

    @property
    def goes_up(self) -> bool:
        """Whether the sample is to leave the device, now or later."""
        return self.action is Action.OFFLOAD or self.action is Action.DEFER


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What of the device's state bears on one sample; changes when a measure is taken, not with every sample.

    Attributes:
        audits_factor: what is left of the audits.
        defer_training: what nobody waits for goes up when the device has it easier.
        drop: what nobody waits for is not kept at all.
    """

    audits_factor: float = 1.0
    defer_training: bool = False
    drop: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sample that should go up, with what speaks for and against it.

    Attributes:
        decision: what `select` said.
        waited_for: somebody waits for the verdict: it is never deferred, dropped or taken for a duplicate.
        duplicate: it looks like one that went up lately.
        affordable: the budget has room for it.
    """

    decision: Decision
    waited_for: bool = False
    duplicate: bool = False
    affordable: bool = True


_CONFIDENT = Decision(Action.KEEP, Reason.CONFIDENT)
_PRIVATE = Decision(Action.KEEP, Reason.PRIVATE)
_INVALID = Decision(Action.OFFLOAD, Reason.INVALID_OUTPUT, 1.0)
_HARD = Decision(Action.OFFLOAD, Reason.HARD, 1.0)
UNDISTURBED = Circumstances()


def under(measures: AbstractSet[Measure], *, audits_factor: float) -> Circumstances:
    """What the measures that are taken mean for one sample; `audits_factor` is what the first of them leaves."""
    return Circumstances(
        audits_factor=audits_factor if Measure.FEWER_AUDITS in measures else 1.0,
        defer_training=Measure.DEFER_TRAINING in measures,
        drop=Measure.DROP in measures,
    )


def select(
    hardness: Hardness,
    *,
    mode: OffloadMode,
    audit_fraction: float,
    draw: float,
    unsteady: Reason | None = None,
    circumstances: Circumstances = UNDISTURBED,
) -> Decision:
    """Whether a sample should go up; the first rule that fits decides.

    Args:
        draw: a number drawn evenly from [0, 1), for the audit.
        unsteady: why the stream makes it hard, however sure the model is.
    """
    hard = hardness.hard or unsteady is not None
    if mode is OffloadMode.NEVER:
        return _PRIVATE if hard else _CONFIDENT
    if hard:
        if not hardness.valid:
            return _INVALID
        return _HARD if hardness.hard or unsteady is None else Decision(Action.OFFLOAD, unsteady, 1.0)
    if mode is OffloadMode.HARD_AND_AUDIT:
        share = audit_fraction * circumstances.audits_factor
        if draw < share:
            return Decision(Action.OFFLOAD, Reason.AUDIT, share)
    return _CONFIDENT


def place(candidate: Candidate, circumstances: Circumstances = UNDISTURBED) -> Decision:
    """What becomes of a sample that should go up; the first rule that fits decides.

    An audit is never taken for a duplicate: the estimates rest on its being drawn at random.
    """
    decision, waited_for = candidate.decision, candidate.waited_for
    if circumstances.drop and not waited_for:
        return Decision(Action.DROP, Reason.PRESSURE)
    if candidate.duplicate and not waited_for and decision.reason is not Reason.AUDIT:
        return Decision(Action.KEEP, Reason.DUPLICATE)
    if not candidate.affordable:
        return Decision(Action.KEEP, Reason.BUDGET)
    if circumstances.defer_training and not waited_for:
        return Decision(Action.DEFER, decision.reason, decision.inclusion_probability)
    return decision
