"""A task's teacher: an ONNX classifier in onnxruntime, warmed up, fed through a batcher."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_service.admission import Terms
from cloud_service.errors import TeacherError
from cloud_service.storage.samples import Answer
from cloud_service.teacher.batcher import Batcher, Infer
from shared.bundle import sha256_file
from shared.codec import Array
from shared.uncertainty import softmax

log = logging.getLogger(__name__)

MAX_BATCH = 8


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded teacher.

    Attributes:
        version: the first 12 hex digits of its file's sha256.
        infer: raw tensors [N, *shape] → logits float32 [N, C].
    """

    version: str
    infer: Infer


class Teacher:
    """Answers samples of one task."""

    def __init__(self, model: Model, *, task: str, max_waiting: int = 256) -> None:
        self.version = model.version
        self._batcher = Batcher(model.infer, name=f"teacher-{task}", max_batch=MAX_BATCH, max_waiting=max_waiting)

    async def run(self) -> None:
        """Serve until cancelled."""
        await self._batcher.run()

    async def answer(self, sample: Array) -> Answer:
        """The teacher's probabilities for one raw tensor.

        Raises:
            TeacherError: the teacher failed on it, or its logits are not finite.
        """
        logits = await self._batcher.submit(sample)
        probabilities: NDArray[np.float32] = softmax(logits)
        if not np.isfinite(probabilities).all():
            raise TeacherError("the teacher's logits for this sample are not finite")
        return Answer(probabilities, self.version)


async def load_model(path: Path, *, task: str, terms: Terms) -> Model:
    """Load a teacher, run it once, and hold its output against the task.

    Raises:
        TeacherError: the file is missing, does not load or run, or has another number of labels.
    """
    return await asyncio.to_thread(_load, path, task, terms)


def _load(path: Path, task: str, terms: Terms) -> Model:
    from cloud_service.runtime import load_session

    if not path.is_file():
        raise TeacherError(f"task {task!r}: there is no teacher at {path}: correct [tasks.{task}] teacher")
    try:
        session = load_session(path)
        name = session.get_inputs()[0].name
        outputs = [output.name for output in session.get_outputs()]
        wanted = "logits" if "logits" in outputs else outputs[0]

        def infer(samples: Array) -> Array:
            result: NDArray[Any] = session.run([wanted], {name: samples})[0]
            return result

        rows = infer(np.zeros((2, *terms.input.shape), dtype=terms.input.dtype))
    # onnxruntime raises a class of its own for each failure; each means that this file is no teacher for this task.
    except Exception as err:
        raise TeacherError(f"task {task!r}: the teacher {path} does not run: {err}") from err
    if rows.shape != (2, terms.labels):
        raise TeacherError(
            f"task {task!r}: the teacher {path} gives {list(rows.shape)} for 2 samples; "
            f"the task has {terms.labels} labels"
        )
    version = sha256_file(path)[:12]
    log.info("task %s: teacher %s from %s", task, version, path)
    return Model(version, infer)
