"""Reads a task's arrays from disk and holds them against the task: base data, and the samples devices sent."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_service.tasks.task import TaskDefinition
from shared.errors import SampleError, SettingsError

Array = NDArray[Any]
Labels = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class BaseData:
    """What the task was first trained on.

    Attributes:
        x: raw samples [N, *shape]; the replay set.
        y: labels int64 [N].
        x_eval: raw samples [M, *shape], never trained on; the gate's.
        y_eval: labels int64 [M].
    """

    x: Array
    y: Labels
    x_eval: Array
    y_eval: Labels


@dataclass(frozen=True, slots=True)
class Samples:
    """What devices sent, in order of arrival.

    Attributes:
        x: raw samples [n, *shape].
        teacher_probs: the verdicts, float32 [n, C], rows sum to 1.
        weight: 1 / probability that a sample like this was sent, float32 [n]; 1 for hard ones.
        order: int64 [n], rising with arrival.
        certain: bool [n]: a human gave the label, which is learnt whatever the teacher says.
    """

    x: Array
    teacher_probs: Floats
    weight: Floats
    order: Labels
    certain: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.x)


def load_base(task: TaskDefinition) -> BaseData:
    """The arrays in `task.base_data`, checked.

    Raises:
        SettingsError: missing, unreadable, or not of the task's shape, dtype and labels; values that are not finite;
            one label only.
    """
    from cloud_service.tasks.sources import read_source

    path = task.base_data
    try:
        arrays = read_source(task) or _read(path, ("x", "y", "x_eval", "y_eval"))
        for x_name, y_name in (("x", "y"), ("x_eval", "y_eval")):
            _check_x(arrays[x_name], task, name=x_name)
            _check_y(arrays[y_name], task, count=len(arrays[x_name]), name=y_name)
            _check_finite(arrays[x_name], name=x_name)
        _check_labels(arrays["y"], task)
    except (OSError, ValueError) as err:
        needs = "; it needs x, y, x_eval, y_eval" if path.suffix == ".npz" else ""
        raise SettingsError(f"base_data of task {task.name} ({path}): {err}{needs}") from err
    return BaseData(arrays["x"], arrays["y"].astype(np.int64), arrays["x_eval"], arrays["y_eval"].astype(np.int64))


def load_samples(path: Path, task: TaskDefinition) -> Samples:
    """A job's uploads, sorted by arrival, the newest `keep_samples` of them; no file: none.

    Raises:
        SampleError: unreadable, or not of the task's shape, dtype and labels.
    """
    if not path.exists():
        return no_samples(task)
    try:
        arrays = _read(path, ("x", "teacher_probs", "weight", "order"), may_lack=("certain",))
        count = len(arrays["x"])
        # Files of before this column: a person's label was told by its probability.
        certain = arrays.get("certain", arrays["teacher_probs"].max(axis=1, initial=0.0) >= 1.0)
        _check_x(arrays["x"], task, name="x", may_be_empty=True)
        _check_probs(arrays["teacher_probs"], count=count, classes=len(task.labels))
        _check_column(arrays["weight"], count=count, name="weight")
        _check_column(arrays["order"], count=count, name="order")
        _check_column(certain, count=count, name="certain")
        _check_yes_or_no(certain, name="certain")
        _check_positive(arrays["weight"])
    except (OSError, ValueError) as err:
        raise SampleError(f"samples in {path}: {err}; export them from the sample store again") from err
    newest = np.argsort(arrays["order"], kind="stable")[-task.training.keep_samples :]
    return Samples(
        x=arrays["x"][newest],
        teacher_probs=arrays["teacher_probs"][newest].astype(np.float32),
        weight=arrays["weight"][newest].astype(np.float32),
        order=arrays["order"][newest].astype(np.int64),
        certain=certain[newest],
    )


def no_samples(task: TaskDefinition) -> Samples:
    """An empty set of uploads."""
    return Samples(
        x=np.zeros((0, *task.input_shape), dtype=task.input_dtype),
        teacher_probs=np.zeros((0, len(task.labels)), dtype=np.float32),
        weight=np.zeros(0, dtype=np.float32),
        order=np.zeros(0, dtype=np.int64),
        certain=np.zeros(0, dtype=np.bool_),
    )


def _read(path: Path, names: tuple[str, ...], *, may_lack: tuple[str, ...] = ()) -> Mapping[str, Array]:
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            missing = [name for name in names if name not in file]
            if missing:
                raise ValueError(f"lacks {', '.join(missing)}")
            return {name: file[name] for name in (*names, *may_lack) if name in file}
    except FileNotFoundError as err:
        raise ValueError("no such file") from err
    except (zipfile.BadZipFile, EOFError, KeyError, AttributeError, TypeError) as err:
        raise ValueError(f"not an npz file, or cut short ({err})") from err


def _check_x(x: Array, task: TaskDefinition, *, name: str, may_be_empty: bool = False) -> None:
    if x.ndim == 0 or x.shape[1:] != task.input_shape or x.dtype != np.dtype(task.input_dtype):
        raise ValueError(
            f"{name} has shape {list(x.shape)} and dtype {x.dtype}; "
            f"the task takes [N, {', '.join(map(str, task.input_shape))}] and {task.input_dtype}"
        )
    if len(x) == 0 and not may_be_empty:
        raise ValueError(f"{name} is empty")


def _check_labels(y: Array, task: TaskDefinition) -> None:
    if len(np.unique(y)) == 1:
        raise ValueError(f"all samples of y are {task.labels[y[0]]!r}: nothing can be learnt from one label")


def _check_finite(x: Array, *, name: str) -> None:
    if x.dtype.kind != "f":
        return
    bad = np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(axis=1))
    if len(bad):
        raise ValueError(f"{name} has NaN or infinity in {len(bad)} samples, the first is number {bad[0]}: remove them")


def _check_y(y: Array, task: TaskDefinition, *, count: int, name: str) -> None:
    if y.shape != (count,) or y.dtype.kind not in "iu":
        raise ValueError(f"{name} must be {count} whole numbers")
    if y.min() < 0 or y.max() >= len(task.labels):
        raise ValueError(f"{name} holds {y.min()} to {y.max()}; the task has {len(task.labels)} labels")


def _check_probs(probs: Array, *, count: int, classes: int) -> None:
    if probs.shape != (count, classes):
        raise ValueError(f"teacher_probs has shape {list(probs.shape)}, not [{count}, {classes}]")
    if probs.dtype.kind != "f" or not np.isfinite(probs).all() or (probs < 0).any():
        raise ValueError("teacher_probs must be finite probabilities")
    if not np.allclose(probs.sum(axis=1), 1.0, atol=1e-3):
        raise ValueError("each row of teacher_probs must sum to 1")


def _check_yes_or_no(values: Array, *, name: str) -> None:
    if values.dtype != np.bool_:
        raise ValueError(f"{name} has dtype {values.dtype}, not bool")


def _check_positive(weight: Array) -> None:
    if not (np.isfinite(weight).all() and (weight > 0).all()):
        raise ValueError("weights must be positive and finite")


def _check_column(values: Array, *, count: int, name: str) -> None:
    if values.shape != (count,):
        raise ValueError(f"{name} has shape {list(values.shape)}, not [{count}]")
