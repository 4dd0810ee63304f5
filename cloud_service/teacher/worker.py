"""A task's teacher at work: samples in through a batcher, answers out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cloud_service.errors import TeacherError
from cloud_service.storage.samples import Answer
from cloud_service.teacher.batcher import Batcher, Priority
from cloud_service.teacher.model import Array, Model, Row, as_rows
from shared.uncertainty import softmax


class Teacher:
    """Answers samples of one task.

    A sample whose answer is not finite, or that the model fails on, fails alone.

    Attributes:
        version: names everything that decides its answers.
    """

    def __init__(self, model: Model, *, task: str, max_waiting: int = 256) -> None:
        self.version = model.version
        self._model = model
        self._batcher: Batcher[Answer | None] = Batcher(
            self._infer,
            name=f"teacher-{task}",
            max_batch=model.max_batch,
            max_waiting=max_waiting,
            max_wait_s=model.window_s,
        )

    @property
    def expired(self) -> int:
        """Samples that were dropped because nobody waited for them any more."""
        return self._batcher.expired

    @property
    def waiting(self) -> int:
        """Samples whose turn has not come."""
        return len(self._batcher)

    async def run(self) -> None:
        """Serve until cancelled."""
        await self._batcher.run()

    async def answer(
        self, sample: Array, *, priority: Priority = Priority.TRAINING, deadline_s: float | None = None
    ) -> Answer:
        """The teacher's answer to one raw tensor.

        Args:
            priority: whose turn comes first.
            deadline_s: how long the answer is worth anything, from now; None: for ever.

        Raises:
            TeacherError: the teacher failed on it, or its answer is not finite.
            Expired: its turn came after the deadline.
        """
        answer = await self._batcher.submit(sample, priority=priority, deadline_s=deadline_s)
        if answer is None:
            raise TeacherError("the teacher's logits for this sample are not finite")
        return answer

    def _infer(self, samples: Array) -> list[Answer | None]:
        """One answer a sample; None: it is not finite. All of a batch in one go: each call of numpy costs 5 µs."""
        rows = as_rows(self._model.infer(samples))
        probabilities = softmax([row.logits for row in rows])
        if probabilities.ndim != 2:
            return [None] * len(rows)
        finite: list[bool] = np.logical_and.reduce(np.isfinite(probabilities), axis=1).tolist()
        return [
            self._answer(row, each) if whole else None
            for row, each, whole in zip(rows, probabilities, finite, strict=True)
        ]

    def _answer(self, row: Row, probabilities: NDArray[np.float32]) -> Answer:
        return Answer(
            probabilities,
            self.version,
            embedding=row.embedding,
            temperature=self._model.temperature,
            disagreement=row.disagreement,
        )
