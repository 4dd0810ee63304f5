"""What a student is trained on: answered samples with their tensors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from cloud_service.errors import NotFound
from cloud_service.storage.models import Sample
from cloud_service.storage.queries import Queries
from cloud_service.storage.values import FINAL_LABEL, TrainingSet
from shared.codec import Array

log = logging.getLogger(__name__)

# Payloads read at once.
_AT_ONCE = 64


class Teaching(Queries):
    """Training sets, out of the rows and the payloads."""

    async def training_set(self, task: str, *, limit: int) -> TrainingSet | None:
        """The newest `limit` labelled samples of a task that are alike; None when there is none.

        A task whose input or labels were changed has older samples of another shape; they are left out. A duplicate is
        no sample of its own unless a human labelled it: it adds to its first one's weight, so that what is scored was
        never trained on.

        Where a human says what the teacher says, the teacher's probabilities stand: they carry what is similar to what
        (Hinton, Vinyals, Dean 2015). Where they differ, all probability is on the human's label. A sample with a
        human's label alone counts once there is a teacher's answer to learn the number of classes from.

        One whose payload is missing is left out and counted in the log.

        Raises:
            StoreError: the database or the blob store failed.
        """
        own = Sample.duplicate_of.is_(None) | Sample.human_label.is_not(None)
        where = (Sample.task == task, FINAL_LABEL.is_not(None), own)
        rows = await self._rows(select(Sample).where(*where).order_by(Sample.number.desc()).limit(limit))
        classes = next((len(row.probabilities) // 4 for row in rows if row.probabilities), 0)
        rows = [row for row in reversed(rows) if _classes(row, classes) == classes]
        if not classes:
            return None
        found: list[Array | None] = []
        for at in range(0, len(rows), _AT_ONCE):
            found += await asyncio.gather(*(self._tensor_if_there(row) for row in rows[at : at + _AT_ONCE]))
        rows = [row for row, tensor in zip(rows, found, strict=True) if tensor is not None]
        tensors = [tensor for tensor in found if tensor is not None]
        if len(rows) < len(found):
            log.error("task %s: %d samples have no payload and train nobody", task, len(found) - len(rows))
        if not rows:
            return None
        kinds = [(tensor.shape, tensor.dtype) for tensor in tensors]
        alike = [index for index, kind in enumerate(kinds) if kind == kinds[-1]]
        return await asyncio.to_thread(_training_set, [rows[i] for i in alike], [tensors[i] for i in alike], classes)

    async def _tensor_if_there(self, row: Sample) -> Array | None:
        try:
            return await self.tensor(row)
        except NotFound:
            return None


def _classes(row: Sample, classes: int) -> int:
    """How many classes a row is about; one without a teacher's answer fits where its label does."""
    if row.probabilities is not None:
        return len(row.probabilities) // 4
    return classes if row.human_label is not None and row.human_label < classes else 0


def _training_set(rows: Sequence[Sample], tensors: Sequence[Array], classes: int) -> TrainingSet:
    return TrainingSet(
        x=np.stack(tensors),
        probabilities=np.stack([_probabilities(row, classes) for row in rows]),
        weight=np.array([(1 + row.duplicates) / row.inclusion_probability for row in rows], dtype=np.float32),
        number=np.array([row.number for row in rows], dtype=np.int64),
        certain=np.array([row.human_label is not None for row in rows], dtype=np.bool_),
    )


def _probabilities(row: Sample, classes: int) -> NDArray[np.float32]:
    if row.probabilities is not None and row.human_label in {None, row.label}:
        return np.frombuffer(row.probabilities, dtype="<f4")
    certain = np.zeros(classes, np.float32)
    certain[row.human_label] = 1.0
    return certain
