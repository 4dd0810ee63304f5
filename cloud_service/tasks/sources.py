"""Base data where it is kept: a folder of class folders, CSV or Parquet of windows, or a function; npz is `data`'s own.

Whatever the source, the same arrays come out: x, y, x_eval, y_eval. Where the source does not say what is held out, of
each class every fifth sample is, in order of file name or row, so that it is the same each time.
"""

from __future__ import annotations

import wave
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_service.tasks.task import ENTRY, TaskDefinition, load_entry
from shared.errors import SettingsError

Array = NDArray[Any]

_PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
_TABLES = {".csv", ".parquet"}
_HELD_OUT_EVERY = 5
_NAMES = ("x", "y", "x_eval", "y_eval")


def read_source(task: TaskDefinition) -> Mapping[str, Array] | None:
    """The arrays of the task's base data, or None where it is an npz file.

    Raises:
        SettingsError: a function is missing, or a library that reads the files.
        ValueError: what is there is not data of this task; the message says which file.
    """
    path = task.base_data
    if ENTRY.match(str(path)):
        given = load_entry(str(path), setting=f"tasks.{task.name}.base_data")(task)
        if not isinstance(given, Mapping) or any(name not in given for name in _NAMES):
            raise ValueError(f"the function must give a mapping of {', '.join(_NAMES)}")
        return {name: np.asarray(given[name]) for name in _NAMES}
    if path.is_dir():
        return _folder(path, task)
    if path.suffix in _TABLES:
        return _split(*_table(path, task))
    return None


def _folder(path: Path, task: TaskDefinition) -> dict[str, Array]:
    """`path/LABEL/file`, or `path/train/LABEL/file` and `path/eval/LABEL/file`."""
    if (path / "train").is_dir() and (path / "eval").is_dir():
        x, y = _classes(path / "train", task)
        x_eval, y_eval = _classes(path / "eval", task)
        return {"x": x, "y": y, "x_eval": x_eval, "y_eval": y_eval}
    return _split(*_classes(path, task))


def _classes(path: Path, task: TaskDefinition) -> tuple[Array, Array]:
    _same_labels({folder.name for folder in path.iterdir() if folder.is_dir()}, task, where=str(path))
    x: list[Array] = []
    y: list[int] = []
    for label, name in enumerate(task.labels):
        files = sorted(file for file in (path / name).rglob("*") if file.is_file() and not file.name.startswith("."))
        for file in files:
            x.append(_sample(file, task))
            y.append(label)
    if not x:
        raise ValueError(f"{path} holds no file")
    return np.stack(x), np.array(y, dtype=np.int64)


def _sample(file: Path, task: TaskDefinition) -> Array:
    read: Callable[[Path, TaskDefinition], Array]
    if file.suffix.lower() in _PICTURES:
        read = _picture
    elif file.suffix.lower() == ".wav":
        read = _sound
    else:
        raise ValueError(f"{file} is neither a picture nor a .wav file: remove it")
    return read(file, task)


def _picture(file: Path, task: TaskDefinition) -> Array:
    """Resized to the task's height and width, grey or in colours as its shape says."""
    try:
        from PIL import Image
    except ImportError as err:
        raise SettingsError(f"{file} is read with pillow: pip install 'edgeloop[images]'") from err
    height, width = task.input_shape[:2]
    grey = len(task.input_shape) == 2 or task.input_shape[2] == 1
    try:
        with Image.open(file) as opened:
            pixels = np.asarray(
                opened.convert("L" if grey else "RGB").resize((width, height), Image.Resampling.BILINEAR)
            )
    except OSError as err:
        raise ValueError(f"{file} is no picture that can be read: {err}") from err
    return pixels.reshape(task.input_shape).astype(task.input_dtype)


def _sound(file: Path, task: TaskDefinition) -> Array:
    """16-bit sound of one channel at the task's rate; cut at the end, or filled with silence."""
    try:
        with wave.open(str(file), "rb") as opened:
            rate, channels, width = opened.getframerate(), opened.getnchannels(), opened.getsampwidth()
            raw = opened.readframes(task.input_shape[0])
    except (wave.Error, EOFError, OSError) as err:
        raise ValueError(f"{file} is no sound that can be read: {err}") from err
    if rate != task.input_rate_hz or channels != 1 or width != 2:
        raise ValueError(
            f"{file} has {channels} channels of {8 * width} bits at {rate} Hz; "
            f"the task takes 1 of 16 bits at {task.input_rate_hz or 0:g} Hz: convert it"
        )
    sound = np.frombuffer(raw, dtype="<i2")
    whole = np.pad(sound, (0, task.input_shape[0] - len(sound)))
    return whole.reshape(task.input_shape).astype(task.input_dtype)


def _table(path: Path, task: TaskDefinition) -> tuple[Array, Array]:
    """One window a row: a column `label` with its name, and as many further columns as a sample has values."""
    try:
        import pandas as pd
    except ImportError as err:
        raise SettingsError(f"{path} is read with pandas: pip install 'edgeloop[tables]'") from err
    try:
        frame = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except ImportError as err:
        raise SettingsError(f"{path} is read with pyarrow: pip install 'edgeloop[tables]'") from err
    if "label" not in frame:
        raise ValueError(f"{path} has no column 'label'")
    names = frame["label"].astype(str)
    _same_labels(set(names), task, where=f"{path}, column label,")
    values = frame.drop(columns="label").to_numpy(dtype=np.float64)
    size = int(np.prod(task.input_shape))
    if values.shape[1] != size:
        raise ValueError(f"{path} has {values.shape[1]} columns beside label; a sample has {size} values")
    if np.dtype(task.input_dtype).kind != "f" and not np.isfinite(values).all():
        raise ValueError(
            f"{path} has empty or infinite values, which {task.input_dtype} cannot hold: remove those rows"
        )
    index = {name: number for number, name in enumerate(task.labels)}
    return values.reshape(-1, *task.input_shape).astype(task.input_dtype), np.array([index[name] for name in names])


def _same_labels(found: Iterable[str], task: TaskDefinition, *, where: str) -> None:
    if other := sorted(set(found) - set(task.labels)):
        raise ValueError(f"{where} holds {', '.join(other[:5])}, which the task's labels do not name")
    if lacking := sorted(set(task.labels) - set(found)):
        raise ValueError(f"{where} holds no sample of {', '.join(lacking[:5])}")


def _split(x: Array, y: Array) -> dict[str, Array]:
    held = np.zeros(len(y), dtype=bool)
    for label in np.unique(y):
        held[np.flatnonzero(y == label)[_HELD_OUT_EVERY - 1 :: _HELD_OUT_EVERY]] = True
    if not held.any():
        raise ValueError(f"no class has {_HELD_OUT_EVERY} samples, so none can be held out: add samples")
    return {"x": x[~held], "y": y[~held], "x_eval": x[held], "y_eval": y[held]}


def counts(y: Array, labels: Sequence[str]) -> dict[str, int]:
    """Samples of each class, by label."""
    found = np.bincount(y, minlength=len(labels))
    return {label: int(found[number]) for number, label in enumerate(labels)}
