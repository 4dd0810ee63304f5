"""What decides a teacher's answers, as hashes: names its version, and the folder where its conversions lie."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cloud_service.errors import TeacherError
from cloud_service.teacher.choice import Choice
from cloud_service.teacher.settings import Backend, Kind, TeacherSettings
from shared.bundle import sha256_file

_LIBRARIES = ("onnxruntime", "onnx", "torch", "timm", "torchvision")
_TAGS = {Backend.ONNXRUNTIME: "onnx", Backend.INT8: "int8", Backend.TORCH: "torch"}
_STEM = 24
_DIGITS = 12
# TensorProto.external_data: an entry of the map with the key "location", then field 2, the file's name.
_EXTERNAL = re.compile(rb"\n\x08location\x12([\x01-\x7f])")


def source_hashes(teacher: TeacherSettings) -> dict[str, str]:
    """Hashes of everything that a teacher is made from: files, weights, the modules that its settings name.

    Of a module the one file counts, not what it imports.

    Raises:
        TeacherError: a file is missing.
    """
    hashes = {"model": teacher.model if teacher.kind is not Kind.ONNX else ""}
    for file in teacher.files:
        hashes[f"file {len(hashes)}"] = _file_hash(file)
        if teacher.kind is Kind.ONNX:
            hashes |= {f"data {name}": _file_hash(file.parent / name) for name in external_files(file)}
    if teacher.kind is Kind.FACTORY:
        hashes["code"] = _code_hash(teacher.model)
    elif teacher.kind is Kind.OWN:
        hashes["width"] = f"{teacher.width:g}"
    elif teacher.kind is not Kind.ONNX:
        hashes["pictures"] = f"{teacher.picture_max:g} {teacher.picture_size}"
    return hashes


def source_digest(hashes: Mapping[str, str], *, teacher: TeacherSettings, terms: Sequence[object]) -> str:
    """One name for a source, the settings of its conversion, and the task that it is converted for.

    Args:
        terms: shape, dtype and labels, say.
    """
    wish = [teacher.backend.value, teacher.max_drop, teacher.check_samples, teacher.threads]
    return _digest([sorted(hashes.items()), wish, list(terms)])[:16]


def member_version(
    teacher: TeacherSettings, hashes: Mapping[str, str], choice: Choice, *, converted_sha256: str = ""
) -> str:
    """A teacher's version: file, backend, then a hash over what decides its answers."""
    views = [teacher.augmentations, _code_hash(teacher.augmentations)] if teacher.augmentations else None
    backend = _TAGS[choice.backend]
    digest = _digest([sorted(hashes.items()), backend, converted_sha256, teacher.temperature, views])
    return f"{_stem(teacher)}-{backend}-{digest[:_DIGITS]}"


def ensemble_version(members: Sequence[str], shares: Sequence[float]) -> str:
    """The version of several teachers together; one alone keeps its own."""
    if len(members) == 1:
        return members[0]
    return f"ensemble{len(members)}-{_digest([list(members), list(shares)])[:_DIGITS]}"


def measured_on(base_data: Path) -> dict[str, str]:
    """What a measurement holds for: libraries, processor, and the samples that it was made with."""
    found = {name: _version(name) for name in _LIBRARIES}
    return found | {"processor": processor(), "base_data": _file_hash(base_data) if base_data.is_file() else "none"}


def processor() -> str:
    """The processor's name and how many of it this machine has, as Linux tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    said = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "CPU part"))]
    return f"{len(said)} × {said[0]}" if said else "unknown"


def external_files(model: Path) -> list[str]:
    """Names of the files, beside an ONNX file, that hold weights of its; read without the library onnx."""
    data = model.read_bytes()
    names = set()
    for found in _EXTERNAL.finditer(data):
        names.add(data[found.end() : found.end() + found[1][0]].decode(errors="replace"))
    return sorted(names)


def _stem(teacher: TeacherSettings) -> str:
    name = Path(teacher.model).stem if teacher.kind is Kind.ONNX else re.split(r"[:.]", teacher.model)[-1]
    return re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-_")[:_STEM] or "teacher"


def _file_hash(file: Path) -> str:
    try:
        return sha256_file(file)
    except OSError as err:
        raise TeacherError(f"there is no teacher at {file} ({err.strerror}): correct its path in the settings") from err


def _code_hash(entry: str) -> str:
    """Of the file of the module that `module:function` names; empty where it has none."""
    try:
        spec = importlib.util.find_spec(entry.partition(":")[0])
    except (ImportError, ValueError):
        return ""
    return sha256_file(Path(spec.origin)) if spec and spec.origin and Path(spec.origin).is_file() else ""


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "none"


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
