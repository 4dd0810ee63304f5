"""The words of a verdict: what of a teacher's answer goes down to the device. Rules only, no IO."""

from __future__ import annotations

from uuid import UUID

import numpy as np

from cloud_service.storage.values import Answer
from shared.messages import Verdict


def verdict_of(sample_id: UUID, task: str, answer: Answer, *, top_k: int, latency_ms: float) -> Verdict:
    """The verdict on one sample.

    Args:
        top_k: so many of the most probable classes are named; 0: all, in the task's order.
    """
    probabilities, classes = answer.probabilities, ()
    if 0 < top_k < len(probabilities):
        best = np.argsort(-probabilities, kind="stable")[:top_k]
        probabilities, classes = probabilities[best], tuple(best.tolist())
    return Verdict(
        sample_id=sample_id,
        task=task,
        prediction=answer.label,
        probabilities=tuple(probabilities.tolist()),
        classes=classes,
        temperature=answer.temperature,
        teacher=answer.teacher,
        latency_ms=latency_ms,
    )
