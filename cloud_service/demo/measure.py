"""What the demo claims, computed from what the devices did: pure functions over answers and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloud_service.demo.journal import Answer, DeviceJournal

Labels = NDArray[np.integer]

CURVE_WINDOW = 300


@dataclass(frozen=True, slots=True)
class Standing:
    """How a model does on the field test set, as the devices lived it.

    Attributes:
        edge_field: accuracy of the student's own answers.
        system_field: accuracy of the final answers, verdicts included.
        offload_rate: share of the images that went up, audits included.
        latency_us: median time of one inference on the device.
        images: how many of the test set's images were answered by this model.
    """

    edge_field: float
    system_field: float
    offload_rate: float
    latency_us: float
    images: int


def standing(journals: Sequence[DeviceJournal], version: str, labels: Labels) -> Standing:
    """The first full pass of the model `version` over the field test set, all devices together.

    Raises:
        ValueError: no device answered a test image with this model.
    """
    answers = [answer for journal in journals for answer in journal.exam_answers(version).values()]
    if not answers:
        raise ValueError(f"no test image was answered by {version}")
    return Standing(
        edge_field=_mean([answer.prediction == labels[answer.reference] for answer in answers]),
        system_field=_mean([answer.final == labels[answer.reference] for answer in answers]),
        offload_rate=_mean([answer.offloaded for answer in answers]),
        latency_us=float(np.median([answer.infer_us for answer in answers])),
        images=len(answers),
    )


@dataclass(frozen=True, slots=True)
class Curve:
    """Moving averages over the test images as time went by, all devices together; arrays of equal length."""

    at_s: NDArray[np.float64]
    edge: NDArray[np.float64]
    system: NDArray[np.float64]
    offload: NDArray[np.float64]


def curve(journals: Sequence[DeviceJournal], labels: Labels, *, window: int = CURVE_WINDOW) -> Curve:
    """Accuracy and offload rate over the last `window` test images, from the image on that fills a third of it."""
    answers = sorted((a for j in journals for a in j.answers if a.exam), key=lambda answer: answer.at_s)
    first = window // 3
    return Curve(
        at_s=np.array([answer.at_s for answer in answers], dtype=np.float64)[first:],
        edge=_moving([answer.prediction == labels[answer.reference] for answer in answers], window)[first:],
        system=_moving([answer.final == labels[answer.reference] for answer in answers], window)[first:],
        offload=_moving([answer.offloaded for answer in answers], window)[first:],
    )


def longest_near_swap_ms(answers: Sequence[Answer], *, around: int = 20) -> float:
    """The longest `infer`, in ms, among the `around` samples before and after the model changed; 0 if it never did."""
    changes = [i for i in range(1, len(answers)) if answers[i].version != answers[i - 1].version]
    near = [a.total_us for i in changes for a in answers[max(0, i - around) : i + around]]
    return max(near, default=0.0) / 1000


def _mean(values: Sequence[object]) -> float:
    return float(np.mean([bool(value) for value in values]))


def _moving(values: Sequence[object], window: int) -> NDArray[np.float64]:
    """Mean of the last `window` values at each place; of fewer at the start."""
    if not values:
        return np.zeros(0)
    total = np.concatenate([[0.0], np.cumsum([bool(value) for value in values], dtype=np.float64)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    means: NDArray[np.float64] = (total[ends] - total[starts]) / (ends - starts)
    return means
