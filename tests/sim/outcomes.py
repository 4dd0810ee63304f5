"""Outcomes and corrections as an agent tells them; keyword arguments replace fields."""

from __future__ import annotations

from edge_agent.outcomes import AnsweredBy, Correction, Outcome
from shared.ids import new_id
from shared.messages import Action, Reason


def outcome(**changes: object) -> Outcome:
    """A confident 3 of the task digits."""
    fields: dict[str, object] = {
        "sample_id": new_id(),
        "task": "digits",
        "seq": 1,
        "label": "3",
        "prediction": 3,
        "confidence": 0.75,
        "answered_by": AnsweredBy.EDGE,
        "edge_prediction": 3,
        "hardness": 0.25,
        "action": Action.KEEP,
        "reason": Reason.CONFIDENT,
        "bundle_version": "v1",
        "reference": None,
        "infer_us": 10.0,
        "total_us": 20.0,
    }
    return Outcome(**(fields | changes))


def hard(**changes: object) -> Outcome:
    """A 3 that went up because it was hard."""
    return outcome(**({"action": Action.OFFLOAD, "reason": Reason.HARD, "hardness": 0.8} | changes))


def correction(**changes: object) -> Correction:
    """The teacher says 4."""
    fields: dict[str, object] = {
        "sample_id": new_id(),
        "task": "digits",
        "seq": 1,
        "label": "4",
        "prediction": 4,
        "confidence": 1.0,
        "agreed": False,
        "bundle_version": "v1",
        "teacher": "t",
        "reference": None,
    }
    return Correction(**(fields | changes))
