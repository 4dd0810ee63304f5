"""Converts a teacher to what it can run on, holds each form against the source, measures all, and records the choice.

A process of its own, so that torch and onnx end with it: `python -m cloud_service.teacher.conversion FOLDER`, with
`request.json` in the folder. Exit code 0 and `choice.json`, or the error's own code and one line on stderr.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from cloud_service.errors import ModelError, TeacherError
from cloud_service.tasks.data import BaseData, load_base
from cloud_service.tasks.task import TaskDefinition
from cloud_service.teacher import onnx_network, record
from cloud_service.teacher.choice import SIZES, Choice, Device, Measured, choose
from cloud_service.teacher.model import Array, Network
from cloud_service.teacher.settings import Backend, Kind, TeacherSettings
from cloud_service.teacher.timing import fitting_clock, interleaved_us
from shared import atomic
from shared.bundle import sha256_file
from shared.errors import EdgeloopError
from shared.uncertainty import softmax

log = logging.getLogger(__name__)

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_CALIBRATION = 128
_CHECKED_AT_ONCE = 8
_FILES = {Backend.ONNXRUNTIME: record.FLOAT, Backend.INT8: record.INT8}


@dataclass(frozen=True, slots=True)
class ConversionRequest:
    """Asks for one teacher's conversion; paths are absolute."""

    task: TaskDefinition
    teacher: TeacherSettings
    holds_for: dict[str, str]


REQUESTS = TypeAdapter(ConversionRequest)


@dataclass(frozen=True, slots=True)
class _Form:
    """One form of a teacher: how it runs, or why it does not."""

    backend: Backend
    device: Device = Device.CPU
    network: Network | None = None
    refused: str = ""


def convert(request: ConversionRequest, folder: Path) -> record.Record:
    """Make every form, measure, choose, keep the chosen file, write the record.

    Raises:
        SettingsError: the base data or what the teacher's settings name is missing.
        TeacherError: the source does not run, or the backend that the settings ask for does not.
        StorageFull: the disk took no more.
    """
    base = load_base(request.task)
    forms = list(_forms(request, folder, base))
    checked = _spread(base.x_eval, request.teacher.check_samples)
    labels = _spread(base.y_eval, request.teacher.check_samples)
    on_cpu = all(form.device is Device.CPU for form in forms)
    clock = fitting_clock(threads=request.teacher.threads, on_cpu=on_cpu)
    measured = _measure(forms, checked, labels, clock=clock)
    asked = request.teacher
    chosen = choose(measured, max_drop=asked.max_drop, checked=len(checked), wish=asked.backend)
    if chosen is None:
        said = "; ".join(f"{one.backend.value}: {one.refused}" for one in measured if one.refused)
        raise TeacherError(f"no backend runs {request.teacher.model}: {said}")
    result = _keep(request, folder, chosen, measured=measured, checked=len(checked))
    record.write_record(folder, result)
    return result


def main() -> int:
    """Convert what the folder on the command line asks for."""
    from cloud_service.training.lineage import die_with_parent

    die_with_parent()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    folder = Path(sys.argv[1])
    try:
        convert(REQUESTS.validate_json((folder / record.REQUEST).read_bytes()), folder)
    except EdgeloopError as err:
        sys.stderr.write(f"{' '.join(str(err).split())}\n")
        return err.exit_code
    return 0


def _forms(request: ConversionRequest, folder: Path, base: BaseData) -> Iterator[_Form]:
    """The source first; then every conversion that the settings admit."""
    teacher, source = request.teacher, folder / record.FLOAT
    if teacher.kind is Kind.ONNX:
        source = Path(teacher.model)
        with _failing_as_teacher(teacher):
            form = _Form(Backend.ONNXRUNTIME, network=onnx_network.open_onnx(source, threads=teacher.threads))
        yield form
    else:
        yield from _torch_forms(request, source)
    if onnx_network.has_cuda() and teacher.backend is Backend.AUTO and source.exists():
        yield _opened(Backend.ONNXRUNTIME, source, teacher, device=Device.CUDA)
    if teacher.backend in {Backend.AUTO, Backend.INT8} and source.exists():
        target = folder / record.INT8
        try:
            _quantize(source, target, base.x)
        # onnx, onnxruntime and its quantizer raise whatever they meet in a graph that they cannot quantize.
        except Exception as err:  # noqa: BLE001
            yield _Form(Backend.INT8, refused=_line(err))
        else:
            yield _opened(Backend.INT8, target, teacher)


def _torch_forms(request: ConversionRequest, target: Path) -> Iterator[_Form]:
    from cloud_service.teacher import torch_network

    teacher = request.teacher
    with _failing_as_teacher(teacher):
        module = torch_network.build(teacher, request.task)
        form = _Form(Backend.TORCH, network=torch_network.open_torch(module, threads=teacher.threads))
    yield form
    try:
        torch_network.export(module, request.task, target)
    except ModelError as err:
        yield _Form(Backend.ONNXRUNTIME, refused=_line(err))
    else:
        yield _opened(Backend.ONNXRUNTIME, target, teacher)
    if torch_network.has_cuda() and teacher.backend in {Backend.AUTO, Backend.TORCH}:
        again = torch_network.build(teacher, request.task)
        yield _Form(Backend.TORCH, Device.CUDA, torch_network.open_torch(again, device=Device.CUDA))


def _quantize(source: Path, target: Path, x: Array) -> None:
    from cloud_service.training import quantize

    quantize.quantize(source, target, inputs=_spread(x, _CALIBRATION))


def _opened(backend: Backend, file: Path, teacher: TeacherSettings, *, device: Device = Device.CPU) -> _Form:
    try:
        network = onnx_network.open_onnx(file, threads=teacher.threads, device=device)
    # onnxruntime raises a class of its own for each failure; each means that this form does not run here.
    except Exception as err:  # noqa: BLE001
        return _Form(backend, device, refused=_line(err))
    return _Form(backend, device, network)


def _measure(forms: Sequence[_Form], x: Array, labels: Array, *, clock: Callable[[], float]) -> list[Measured]:
    answers = [_answers(form, x) for form in forms]
    truth = answers[0]
    if isinstance(truth, str):
        raise TeacherError(f"the teacher does not run: {truth}")
    running = [(form, got) for form, got in zip(forms, answers, strict=True) if not isinstance(got, str)]
    networks = [form.network for form, _ in running if form.network is not None]
    times = interleaved_us(networks, x, sizes=[SIZES[form.device] for form, _ in running], clock=clock)
    measured = [
        Measured(form.backend, form.device, us, float((got == truth).mean()), float((got == labels).mean()))
        for (form, got), us in zip(running, times, strict=True)
    ]
    failed = [(form, got) for form, got in zip(forms, answers, strict=True) if isinstance(got, str)]
    return [*measured, *(Measured(form.backend, form.device, refused=said) for form, said in failed)]


def _answers(form: _Form, x: Array) -> Array | str:
    """The answer to each sample [N], or why there are none."""
    if form.network is None:
        return form.refused
    try:
        parts = [form.network(x[i : i + _CHECKED_AT_ONCE]).logits for i in range(0, len(x), _CHECKED_AT_ONCE)]
    # Whatever a runtime raises on real samples means that this form does not run.
    except Exception as err:  # noqa: BLE001
        return _line(err)
    logits = np.concatenate(parts)
    # As the service judges a sample's answer: a logit of −inf is a probability of 0, +inf is none.
    if not np.isfinite(softmax(logits)).all():
        return "answers are not finite"
    found: Array = logits.argmax(axis=1)
    return found


def _keep(
    request: ConversionRequest, folder: Path, chosen: Choice, *, measured: Sequence[Measured], checked: int
) -> record.Record:
    """The record; converted files that were not chosen are removed."""
    file = _FILES.get(chosen.backend, "")
    if chosen.backend is Backend.ONNXRUNTIME and request.teacher.kind is Kind.ONNX:
        file = ""
    for name in _FILES.values():
        if name != file:
            atomic.remove(folder / name)
    digest = sha256_file(folder / file) if file else ""
    return record.Record(request.holds_for, chosen, file, digest, checked, tuple(measured))


def _spread(values: Array, most: int) -> Array:
    """At most `most` of the rows, evenly spread."""
    if len(values) <= most:
        return values
    chosen: Array = values[np.linspace(0, len(values) - 1, most).astype(np.int64)]
    return chosen


def _line(err: Exception) -> str:
    """What an error says, in one short line without the colours that torch's exporter uses."""
    return " ".join(_COLOUR.sub("", str(err)).split())[:300] or type(err).__name__


@contextmanager
def _failing_as_teacher(teacher: TeacherSettings) -> Iterator[None]:
    """Turn what foreign code raises into a TeacherError."""
    try:
        yield
    except EdgeloopError:
        raise
    # Foreign code of any kind: whatever it raises means that this source is no teacher.
    except Exception as err:
        raise TeacherError(f"the teacher {teacher.model} does not run: {_line(err)}") from err


if __name__ == "__main__":
    sys.exit(main())
