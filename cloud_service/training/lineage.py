"""Where a bundle comes from, and the tie between a training process and whoever started it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import JsonValue

from cloud_service.tasks.task import TaskDefinition
from cloud_service.teacher.settings import Kind
from shared.bundle import sha256_file

_LIBRARIES = ("edgeloop", "numpy", "onnx", "onnxruntime", "torch")
_PR_SET_PDEATHSIG = 1


def describe_lineage(
    task: TaskDefinition, *, samples: Path, newest_upload: int | None, parent: str | None
) -> dict[str, JsonValue]:
    """What a bundle's manifest says of its making: hashes of the data, parent, settings, seed, library versions.

    Args:
        newest_upload: order of the newest upload it learns from; the next run judges it by later ones.
    """
    files = {"base_data": task.base_data, "samples": samples}
    for number, file in enumerate(file for teacher in task.teacher for file in teacher.files):
        files["teacher" if number == 0 else f"teacher {number + 1}"] = file
    hashes = {name: sha256_file(path) for name, path in files.items() if path.exists()}
    settings: JsonValue = task.training.model_dump(mode="json")
    taught = _how_taught(task)
    everything = hashlib.sha256(repr([*sorted(hashes.items()), *taught]).encode()).hexdigest()
    return {
        "data_sha256": everything,
        "files_sha256": dict(hashes),
        "newest_upload": newest_upload,
        "parent": parent,
        "student": task.student,
        "augment": task.augment,
        **({"taught_by": taught} if taught else {}),
        "settings": settings,
        "seed": task.training.seed,
        "versions": {name: _version(name) for name in _LIBRARIES},
    }


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


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed as a package"
