"""What a model is worth, measured in onnxruntime: accuracy, agreement, calibration, size and latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_service import runtime
from cloud_service.errors import ModelError
from cloud_service.training import ranking
from cloud_service.training.gate import ClassNumbers
from shared.uncertainty import softmax

Array = NDArray[Any]
Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
Runner = Callable[[Array], Floats]
"""Raw samples [N, *shape] to logits float32 [N, C]."""

_LATENCY_ROUNDS = 200
_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Field:
    """Samples of the field as one model answers them, or what stands in for them.

    Attributes:
        x: raw samples [n, *shape].
        logits: float32 [n, C], the model's.
        answers: int64 [n], the teacher's.
        weight: float32 [n], how many of the stream each stands for.
    """

    x: Array
    logits: Floats
    answers: Labels
    weight: Floats

    def rows(self, chosen: NDArray[np.bool_]) -> Field:
        """Only these."""
        return Field(self.x[chosen], self.logits[chosen], self.answers[chosen], self.weight[chosen])


def open_runner(model: Path | bytes) -> Runner:
    """A model as a function from raw samples to its output `logits`, or its first where none has that name.

    Raises:
        ModelError: the file does not load.
    """
    # onnxruntime raises a class of its own for each failure; each means that this is no model.
    try:
        session = runtime.load_session(model)
    except Exception as err:
        raise ModelError(f"an ONNX file does not load: {err}") from err
    name = session.get_inputs()[0].name
    outputs = [value.name for value in session.get_outputs()]
    output = "logits" if "logits" in outputs else outputs[0]

    def run(x: Array) -> Floats:
        try:
            # In parts: what lies between the layers of a hundred thousand pictures at once fits no machine.
            parts = [
                session.run([output], {name: x[at : at + _AT_ONCE]})[0] for at in range(0, max(1, len(x)), _AT_ONCE)
            ]
        except Exception as err:
            raise ModelError(f"an ONNX model does not run on samples of shape {list(x.shape)}: {err}") from err
        logits: Floats = (parts[0] if len(parts) == 1 else np.concatenate(parts)).astype(np.float32)
        return logits

    return run


def share_right(logits: Floats, answers: Labels, weight: Floats | None = None) -> float:
    """Weighted fraction of rows whose largest logit is at the answer: accuracy, or agreement with verdicts."""
    right = logits.argmax(axis=1) == answers
    return float(np.average(right, weights=weight))


def share_right_per_class(logits: Floats, answers: Labels, *, labels: Sequence[str]) -> dict[str, float]:
    """`share_right` of each label that occurs among the answers, unweighted."""
    right = logits.argmax(axis=1) == answers
    return {label: float(right[answers == i].mean()) for i, label in enumerate(labels) if (answers == i).any()}


def paired_error(new: Floats, old: Floats, answers: Labels, weight: Floats | None = None) -> float:
    """Standard error of the difference of two models' `share_right` over the same rows."""
    difference = (new.argmax(axis=1) == answers).astype(float) - (old.argmax(axis=1) == answers)
    weights = np.ones(len(answers)) if weight is None else weight.astype(np.float64)
    spread = difference - np.average(difference, weights=weights)
    return float(np.sqrt(((weights * spread) ** 2).sum()) / weights.sum())


def per_class(new: Floats, old: Floats | None, answers: Labels, *, labels: Sequence[str]) -> tuple[ClassNumbers, ...]:
    """Both models' `share_right` of each label, those without a sample included, unweighted.

    Args:
        new: the candidate's logits [n, C].
        old: the incumbent's for the same rows; None: there is none.
        answers: the right classes [n].
        labels: names of the C classes.
    """
    found = []
    for i, label in enumerate(labels):
        rows = answers == i
        count = int(rows.sum())
        if count == 0:
            found.append(ClassNumbers(label, 0, 0.0))
            continue
        mine, truth = new[rows], answers[rows]
        theirs = None if old is None else old[rows]
        found.append(
            ClassNumbers(
                label,
                count,
                share_right(mine, truth),
                None if theirs is None else share_right(theirs, truth),
                0.0 if theirs is None else paired_error(mine, theirs, truth),
            )
        )
    return tuple(found)


def calibration_error(logits: Floats, answers: Labels, *, temperature: float, weight: Floats | None = None) -> float:
    """Expected calibration error over 15 equal bins of the top probability, in 0..1; see `ranking.expected_error`."""
    probabilities = softmax(logits, temperature)
    right = probabilities.argmax(axis=1) == answers
    weights = np.ones(len(right)) if weight is None else weight
    return ranking.expected_error(ranking.reliability(probabilities.max(axis=1), right, weights))


def latencies_us(runners: Sequence[Runner], sample: Array, *, rounds: int = _LATENCY_ROUNDS) -> list[float]:
    """Median time of one sample for each runner, in microseconds.

    The runners take turns, so that a change of the processor's clock or load falls on all of them alike.
    """
    times: list[list[float]] = [[] for _ in runners]
    one = sample[None]
    for _ in range(rounds):
        for runner, mine in zip(runners, times, strict=True):
            start = time.perf_counter()
            runner(one)
            mine.append(time.perf_counter() - start)
    return [statistics.median(mine) * 1e6 for mine in times]


def largest_difference(left: Floats, right: Floats) -> float:
    """Largest absolute difference of two arrays of one shape; 0 for empty ones."""
    return float(np.abs(left - right).max(initial=0.0))
