"""Students and their weights: made, kept between stages, and found again whatever pruning did to their shapes."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from cloud_service.errors import ModelError
from cloud_service.networks.students import open_student
from cloud_service.tasks.task import TaskDefinition
from cloud_service.training import structure
from cloud_service.training.structure import Cut
from shared import atomic

log = logging.getLogger(__name__)


def make_student(task: TaskDefinition) -> nn.Module:
    """A new student: raw samples [N, *shape] to (logits [N, C], embedding [N, E]).

    Raises:
        SettingsError: the setting names what does not exist, is not installed or does not fit.
    """
    return open_student(task)


def save(students: Sequence[nn.Module], file: Path, *, cuts: Sequence[Sequence[Cut]] = ()) -> None:
    """Write the weights of students, and what pruning cut away from each; raises `StorageFull` on a full disk."""
    with atomic.replacing(file) as target:
        torch.save(
            {"states": [student.state_dict() for student in students], "cuts": [list(one) for one in cuts]}, target
        )


def load(file: Path, task: TaskDefinition) -> list[nn.Module]:
    """The students in a file that `save` wrote, in evaluation mode.

    Raises:
        ModelError: it cannot be read, or holds another network than the task's student.
    """
    states, cuts = _read(file)
    example = torch.zeros((2, *task.input_shape), dtype=getattr(torch, task.input_dtype))
    students = []
    for number, state in enumerate(states):
        student = make_student(task).eval()
        try:
            if number < len(cuts) and cuts[number]:
                structure.cut(student, cuts[number], example=example)
            student.load_state_dict(state)
        except (RuntimeError, KeyError, AttributeError) as err:
            raise ModelError(f"{file} holds another network than the task's student: {err}") from err
        students.append(student.eval())
    return students


def read_start(file: Path, task: TaskDefinition) -> dict[str, Tensor] | None:
    """The incumbent's float weights to start from; None, and the log says why, where they do not fit the student."""
    try:
        states, _ = _read(file)
    except ModelError as err:
        log.warning("the student starts from scratch: %s", err)
        return None
    wanted = {name: value.shape for name, value in make_student(task).state_dict().items()}
    given = {name: value.shape for name, value in states[-1].items()}
    if wanted != given:
        log.warning("the student starts from scratch: the incumbent's weights in %s are of another network", file)
        return None
    return dict(states[-1])


def _read(file: Path) -> tuple[list[dict[str, Tensor]], list[list[Cut]]]:
    """The states, and what was cut away from each; a plain state_dict is one state."""
    try:
        held = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as err:
        raise ModelError(f"the weights {file} cannot be read: {err}") from err
    if not isinstance(held, dict):
        raise ModelError(f"the weights {file} hold {type(held).__name__}, not a state_dict")
    return (held["states"], held.get("cuts", [])) if "states" in held else ([held], [])
