"""Where a bundle comes from, and the tie between a training process and whoever started it."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import platform
import signal
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from cloud_service.tasks.data import BaseData
from cloud_service.tasks.task import ENTRY, TaskDefinition
from cloud_service.teacher.settings import Kind
from shared.bundle import sha256_file

_LIBRARIES = ("edgeloop", "numpy", "onnx", "onnxruntime", "torch", "torch-pruning", "torchao", "timm", "torchvision")
_TOLD_BY_VERSION = {"cloud_service", "edgeloop", "timm", "torchvision"}
_ABSENT = object()
_PR_SET_PDEATHSIG = 1


def describe_lineage(
    task: TaskDefinition, base: BaseData, *, samples: Path, newest_upload: int | None, parent: str | None
) -> dict[str, JsonValue]:
    """What a bundle's manifest says of its making: hashes of the data, parent, settings, seed, library versions.

    Two runs of equal lineage on one machine give the same model, bit for bit. Training is on one thread, so its sums
    have one order; another kind of processor may add in another one, and its name is noted.

    Args:
        base: the task's base data, as it was read.
        newest_upload: order of the newest upload it learns from; the next run judges it by later ones.
    """
    files = {"base_data": task.base_data, "samples": samples}
    for number, file in enumerate(file for teacher in task.teacher for file in teacher.files):
        files["teacher" if number == 0 else f"teacher {number + 1}"] = file
    if task.network.weights is not None:
        files["student"] = task.network.weights
    hashes = {name: _sha256(path) for name, path in files.items() if path.exists()}
    if not task.base_data.exists():
        hashes["base_data"] = _sha256_of_arrays(base)  # what the task's function gave
    settings: JsonValue = task.training.model_dump(mode="json")
    taught = _how_taught(task)
    everything = hashlib.sha256(repr([*sorted(hashes.items()), *taught]).encode()).hexdigest()
    return {
        "data_sha256": everything,
        "files_sha256": dict(hashes),
        "newest_upload": newest_upload,
        "parent": parent,
        "student": _student(task),
        **({"preprocessing": task.preprocessing.model_dump(mode="json")} if task.preprocessing else {}),
        "augment": task.augment,
        **({"taught_by": taught} if taught else {}),
        "settings": settings,
        "seed": task.training.seed,
        "code_sha256": _own_code(task),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _LIBRARIES}},
        "machine": platform.machine(),
    }


def differences(left: Mapping[str, JsonValue], right: Mapping[str, JsonValue]) -> list[str]:
    """What keeps two runs from giving the same model: one line for each entry that differs, by its dotted name."""
    mine, theirs = dict(flatten("", left)), dict(flatten("", right))
    return [
        f"{name}: {mine.get(name, 'absent')} and {theirs.get(name, 'absent')}"
        for name in sorted(mine.keys() | theirs.keys())
        if mine.get(name, _ABSENT) != theirs.get(name, _ABSENT)
    ]


def flatten(prefix: str, value: JsonValue | Mapping[str, JsonValue]) -> Iterator[tuple[str, JsonValue]]:
    """The leaves of nested tables, each with its dotted name below `prefix`."""
    if not isinstance(value, Mapping):
        yield prefix, value
        return
    for name, part in value.items():
        yield from flatten(f"{prefix}.{name}" if prefix else name, part)


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends; elsewhere nothing happens."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended between the two calls
        os.kill(os.getpid(), signal.SIGKILL)


def _how_taught(task: TaskDefinition) -> list[JsonValue]:
    """What decides the teacher's answers beside its files; nothing for an ONNX file that is taken as it is."""
    plain = {"temperature": 1.0, "share": 1.0, "augmentations": None}
    said: list[JsonValue] = []
    for teacher in task.teacher:
        how = teacher.model_dump(mode="json", include=set(plain))
        if len(task.teacher) > 1 or how != plain or teacher.kind is not Kind.ONNX:
            said.append(how | {"model": "" if teacher.kind is Kind.ONNX else teacher.model})
    return said


def _sha256(path: Path) -> str:
    """Of a file; of a folder: of the names and hashes of all that is in it."""
    if not path.is_dir():
        return sha256_file(path)
    inside = sorted(file for file in path.rglob("*") if file.is_file())
    return hashlib.sha256(
        "".join(f"{file.relative_to(path).as_posix()}\0{sha256_file(file)}\n" for file in inside).encode()
    ).hexdigest()


def _sha256_of_arrays(base: BaseData) -> str:
    found = hashlib.sha256()
    for array in (base.x, base.y, base.x_eval, base.y_eval):
        found.update(f"{array.dtype.str} {array.shape}\n".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def _student(task: TaskDefinition) -> JsonValue:
    """The network, without where its weights lay: what they are is told by their hash."""
    if isinstance(task.student, str):
        return task.student
    return task.student.model_dump(mode="json", exclude={"weights"})


def _own_code(task: TaskDefinition) -> dict[str, JsonValue]:
    """Hashes of the files of the task's own `module:function`s; edgeloop's are told by its version."""
    found: dict[str, JsonValue] = {}
    teachers = [teacher.model for teacher in task.teacher]
    if task.teach is not None:
        teachers.append(task.teach.network)
    for entry in (task.network.network, task.augment or "", str(task.base_data), *teachers):
        module = entry.partition(":")[0]
        if not ENTRY.match(entry) or module.split(".")[0] in _TOLD_BY_VERSION:
            continue
        # The module is imported when the student is made; whatever is wrong with it is said there.
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            continue
        if spec is not None and spec.origin and Path(spec.origin).is_file():
            found[module] = sha256_file(Path(spec.origin))
    return found


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed as a package"
