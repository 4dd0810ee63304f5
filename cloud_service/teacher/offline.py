"""A task's teacher for training: the models as they were given, whatever the service runs them on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cloud_service.errors import ModelError, TeacherError
from cloud_service.tasks.task import TaskDefinition
from cloud_service.teacher.composition import Member, compose, load_views
from cloud_service.teacher.model import Array, Floats, Network, Outputs
from cloud_service.teacher.settings import Kind, TeacherSettings

# What lies between the layers of thousands of samples at once fits no machine.
_AT_ONCE = 512


def open_teacher(task: TaskDefinition) -> Callable[[Array], Floats]:
    """Raw samples [N, *shape] to logits float32 [N, C]; raises what `open_whole_teacher` does."""
    network = open_whole_teacher(task)
    return lambda samples: network(samples).logits


def open_whole_teacher(task: TaskDefinition) -> Network:
    """Raw samples [N, *shape] to logits and, where it gives one, embedding; temperature, views, all members included.

    Raises:
        SettingsError: the settings name what does not exist or is not installed.
        ModelError: a file does not load; the returned function, too, where it does not run on the samples.
    """
    members = [
        Member(_open(teacher, task), teacher.temperature, teacher.share, load_views(teacher, task=task.name))
        for teacher in task.teacher
    ]
    network = compose(members)

    def answer(samples: Array) -> Outputs:
        try:
            parts = [network(samples[at : at + _AT_ONCE]) for at in range(0, max(1, len(samples)), _AT_ONCE)]
        # Runtimes raise classes of their own; each means that the teacher does not take these samples.
        except Exception as err:
            raise ModelError(f"the teacher does not run on samples of shape {list(samples.shape)}: {err}") from err

        return parts[0] if len(parts) == 1 else _joined(parts)

    return answer


def _joined(parts: Sequence[Outputs]) -> Outputs:
    def column(values: list[Floats | None]) -> Floats | None:
        given = [value for value in values if value is not None]
        return np.concatenate(given) if given else None

    return Outputs(
        np.concatenate([part.logits for part in parts]),
        column([part.embedding for part in parts]),
        column([part.disagreement for part in parts]),
    )


def _open(teacher: TeacherSettings, task: TaskDefinition) -> Network:
    if teacher.kind is not Kind.ONNX:
        from cloud_service.teacher.torch_network import build, open_torch

        try:
            return open_torch(build(teacher, task))
        except TeacherError as err:
            raise ModelError(str(err)) from err
    from cloud_service.teacher.onnx_network import open_onnx

    try:
        return open_onnx(Path(teacher.model), threads=teacher.threads)
    # onnxruntime raises a class of its own for each failure; each means that this is no model.
    except Exception as err:
        raise ModelError(f"the teacher {teacher.model} does not load: {err}") from err
