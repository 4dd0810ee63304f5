"""`edgeloop task check`: everything that can be known before hours are spent."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_service.errors import ModelError
from cloud_service.tasks.data import BaseData, load_base
from cloud_service.tasks.sources import counts
from cloud_service.tasks.task import TaskDefinition
from shared.errors import SettingsError

_CALIBRATION = 64
_RUNS = 30
_ASKED = 256


class WrongSetting(SettingsError):
    """What is wrong shows only in use; `setting`: of the task, by which it came: whoever has the file says its line."""

    def __init__(self, message: str, setting: str) -> None:
        super().__init__(message)
        self.setting = setting


@dataclass(frozen=True, slots=True)
class Checked:
    """What a task came to.

    Attributes:
        classes: samples of each label, in the replay set and held out.
        parameters, macs: of the untrained student; macs for one sample.
        int8_bytes: of its model.onnx.
        latency_us: median time for one sample on this host.
        unfit: profiles that the student is too large for, with why.
        missing: files of teachers that are not there yet.
        teacher_right: share of the held-out samples, the first hundreds, that the teacher answers with their label;
            None: it is not there yet.
    """

    classes: dict[str, tuple[int, int]]
    parameters: int
    macs: int
    int8_bytes: int
    latency_us: float
    unfit: dict[str, str]
    missing: tuple[str, ...] = ()
    teacher_right: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What a student costs; see `Checked`."""

    parameters: int
    macs: int
    int8_bytes: int
    latency_us: float


def check(task: TaskDefinition) -> Checked:
    """Read the data, ask the teacher, open the student, run it once, and make an int8 file of it.

    Raises:
        WrongSetting: what is wrong first, and what to do.
        ModelError: the teacher does not run, or the student cannot be exported or quantized.
    """
    with _by("base_data"):
        base = load_base(task)
        _check_classes(base, task)
    missing = tuple(str(file) for teacher in task.teacher for file in teacher.files if not file.exists())
    with _by("teacher"):
        right = None if missing else _ask_teacher(base, task)
    with _by("student"):
        cost = measure(task, base.x[:_CALIBRATION])
    train, held = counts(base.y, task.labels), counts(base.y_eval, task.labels)
    unfit = {
        name: f"{cost.int8_bytes} bytes, over max_model_bytes = {profile.max_model_bytes}"
        for name, profile in task.profiles.items()
        if profile.max_model_bytes is not None and cost.int8_bytes > profile.max_model_bytes
    }
    return Checked(
        classes={label: (train[label], held[label]) for label in task.labels},
        parameters=cost.parameters,
        macs=cost.macs,
        int8_bytes=cost.int8_bytes,
        latency_us=cost.latency_us,
        unfit=unfit,
        missing=missing,
        teacher_right=right,
    )


@contextmanager
def _by(setting: str) -> Iterator[None]:
    try:
        yield
    except SettingsError as err:
        raise WrongSetting(str(err), setting) from err


def measure(task: TaskDefinition, x: NDArray[Any]) -> Measured:
    """Cost of the task's untrained student; `x` are raw samples [N, *shape], 16 or more, that set its int8 ranges."""
    import torch

    from cloud_service import runtime
    from cloud_service.networks.students import open_student
    from cloud_service.training import quantize
    from cloud_service.training.macs import count_macs, count_parameters

    student = open_student(task).eval()
    _make_distinct(student)
    example = torch.from_numpy(np.ascontiguousarray(x[:2]))
    _check_answer(student(example), task)
    with tempfile.TemporaryDirectory() as folder:
        exact, small = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        quantize.export_student(student, task, exact)
        quantize.quantize(exact, small, inputs=x)
        session = runtime.load_session(small)
        name, times = session.get_inputs()[0].name, []
        for _ in range(_RUNS):
            start = time.perf_counter()
            session.run(None, {name: x[:1]})
            times.append(time.perf_counter() - start)
        size = small.stat().st_size
    return Measured(count_parameters(student), count_macs(student, example), size, float(np.median(times)) * 1e6)


def _make_distinct(student: Any) -> None:
    """Change its biases and statistics a little: equal ones, as an untrained student has, share a place in the file."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for values in student.state_dict().values():
            if values.dim() == 1 and values.is_floating_point():
                values.add_(torch.rand(values.shape, generator=generator) * 1e-3)


def _check_classes(base: BaseData, task: TaskDefinition) -> None:
    for y, name in ((base.y, "the replay set"), (base.y_eval, "the held-out set")):
        if lacking := [label for label, count in counts(y, task.labels).items() if count == 0]:
            raise SettingsError(
                f"base data of task {task.name}: {name} has no sample of {', '.join(lacking)}: "
                "add samples, or take the label out"
            )


def _ask_teacher(base: BaseData, task: TaskDefinition) -> float:
    """Share of some held-out samples that it answers with their label; their order is by class often, so from all."""
    from cloud_service.teacher.offline import open_teacher

    some = np.random.default_rng(0).permutation(len(base.x_eval))[:_ASKED]
    logits = open_teacher(task)(base.x_eval[some])
    if logits.ndim != 2 or logits.shape[1] != len(task.labels):
        raise SettingsError(
            f"task {task.name}: the teacher gives {list(logits.shape[1:])} for a sample; the task has "
            f"{len(task.labels)} labels, in their order"
        )
    if not np.isfinite(logits).all():
        raise ModelError(
            f"task {task.name}: the teacher's answers are not finite: see its weights and its input's range"
        )
    return float((logits.argmax(axis=1) == base.y_eval[some]).mean())


def _check_answer(answer: Any, task: TaskDefinition) -> None:
    shapes = [tuple(part.shape) for part in answer] if isinstance(answer, tuple) else []
    if len(shapes) != 2 or shapes[0] != (2, len(task.labels)) or len(shapes[1]) != 2:
        raise SettingsError(
            f"task {task.name}: the student {task.network.network} gave shapes {shapes} for 2 samples; "
            f"it must give (logits [2, {len(task.labels)}], embedding [2, E])"
        )
