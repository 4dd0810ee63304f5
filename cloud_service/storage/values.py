"""What goes into the sample store and comes out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, func

from cloud_service.storage.models import Sample
from shared.codec import Array
from shared.messages import SampleHeader


@dataclass(frozen=True, slots=True)
class NewSample:
    """A sample as it came in; `tensor` may be a view of its frame."""

    device: str
    header: SampleHeader
    tensor: Array


@dataclass(frozen=True, slots=True)
class Answer:
    """What the teacher said about one sample.

    Attributes:
        probabilities: float32 [C].
        teacher: the teacher's version.
        embedding: float32 [E], of length 1 (L2), where the teacher has such an output.
        temperature: what the logits were divided by before the softmax.
        disagreement: of an ensemble's members or a sample's views, in nats; None where one model looked once. It is not
            stored.
    """

    probabilities: NDArray[np.float32]
    teacher: str
    embedding: NDArray[np.float32] | None = None
    temperature: float = 1.0
    disagreement: float | None = None

    @property
    def label(self) -> int:
        return int(self.probabilities.argmax())


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a sample: its answer, the teacher's failure, or neither yet.

    Attributes:
        failure: also `PURGED` for a sample that was deleted for good.
    """

    device: str
    answer: Answer | None
    failure: str | None


# The failure of a sample that somebody had deleted; a redelivery of it is receipted and not stored.
PURGED = "deleted on request; it is not stored again"


@dataclass(frozen=True, slots=True)
class SampleFilter:
    """Which samples are meant; None: any.

    Attributes:
        label: what the sample counts as: the human label, else the teacher's.
        human_label: the human label alone.
        labelled: whether a human has labelled it.
        since, until: when it was stored; `until` is not included.
        min_hardness, max_hardness: both included.
    """

    task: str | None = None
    device: str | None = None
    label: int | None = None
    reason: str | None = None
    teacher: str | None = None
    bundle_version: str | None = None
    human_label: int | None = None
    labelled: bool | None = None
    since: datetime | None = None
    until: datetime | None = None
    min_hardness: float | None = None
    max_hardness: float | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """How many samples share these; `label` is the human's, else the teacher's, None where there is neither."""

    task: str
    device: str
    reason: str
    label: int | None
    count: int


@dataclass(frozen=True, slots=True)
class Histograms:
    """How a task's samples spread.

    Attributes:
        classes: samples by label, the human's or else the teacher's; those without either are left out.
        hardness: samples in each of 20 equal bins of [0, 1]; what is outside counts in the bin at its end.
    """

    classes: Mapping[int, int]
    hardness: Sequence[int]


@dataclass(frozen=True, slots=True)
class Purged:
    """What was deleted: rows, and payloads that no other row needs."""

    samples: int = 0
    blobs: int = 0

    def __add__(self, other: Purged) -> Purged:
        return Purged(self.samples + other.samples, self.blobs + other.blobs)


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One audit: a confident sample that was sent at random.

    Attributes:
        agreed: whether the teacher says what the edge said; None: it has not answered.
        human_correct_edge, human_correct_teacher: whether each says what a human said; None: nobody or it has not.
    """

    device: str
    agreed: bool | None
    human_correct_edge: bool | None
    human_correct_teacher: bool | None
    inclusion_probability: float
    stored_at: datetime


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One sample's score, in the order in which the store took it."""

    number: int
    id: UUID
    device: str
    hardness: float
    reason: str
    inclusion_probability: float


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """A task's answered samples, oldest first.

    Attributes:
        x: [N, *shape], the raw tensors.
        probabilities: float32 [N, C]: the teacher's, or all on the human's label where that differs.
        weight: float32 [N]: how many of the stream each stands for, which is the inverse of the chance that such a
            sample was sent, for itself and each of its duplicates.
        number: int64 [N], the store's own order.
        certain: bool [N]: a human labelled it.
    """

    x: Array
    probabilities: NDArray[np.float32]
    weight: NDArray[np.float32]
    number: NDArray[np.int64]
    certain: NDArray[np.bool_]


# What a sample counts as: a human label wins over the teacher's.
FINAL_LABEL: ColumnElement[int | None] = func.coalesce(Sample.human_label, Sample.label)


class Answered(Protocol):
    """A row with a teacher's answer: a `Sample`, or some of its columns."""

    @property
    def probabilities(self) -> bytes | None: ...

    @property
    def teacher(self) -> str | None: ...

    @property
    def embedding(self) -> bytes | None: ...

    @property
    def temperature(self) -> float: ...


def answer_of(row: Answered) -> Answer | None:
    """The teacher's answer in a row, if there is one."""
    if row.probabilities is None or row.teacher is None:
        return None
    embedding = None if row.embedding is None else np.frombuffer(row.embedding, "<f2").astype(np.float32)
    return Answer(np.frombuffer(row.probabilities, dtype="<f4"), row.teacher, embedding, row.temperature)


def conditions(which: SampleFilter) -> list[ColumnElement[bool]]:
    """The filter as SQL: all of these hold."""
    equal = (
        (Sample.task, which.task),
        (Sample.device, which.device),
        (FINAL_LABEL, which.label),
        (Sample.reason, which.reason),
        (Sample.teacher, which.teacher),
        (Sample.bundle_version, which.bundle_version),
        (Sample.human_label, which.human_label),
    )
    found: list[ColumnElement[bool]] = [column == value for column, value in equal if value is not None]
    if which.labelled is not None:
        found.append(Sample.human_label.is_not(None) if which.labelled else Sample.human_label.is_(None))
    if which.since is not None:
        found.append(Sample.stored_at >= which.since)
    if which.until is not None:
        found.append(Sample.stored_at < which.until)
    if which.min_hardness is not None:
        found.append(Sample.hardness >= which.min_hardness)
    if which.max_hardness is not None:
        found.append(Sample.hardness <= which.max_hardness)
    return found
