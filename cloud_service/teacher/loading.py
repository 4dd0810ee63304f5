"""From a task's settings to a teacher that is ready: converted once, the choice remembered, warmed up."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cloud_service.errors import TeacherError
from cloud_service.tasks.task import TaskDefinition
from cloud_service.teacher import record
from cloud_service.teacher.choice import SIZES, WORTH_US, Choice, Device, Measured
from cloud_service.teacher.composition import Member, compose, load_views, shared_temperature
from cloud_service.teacher.conversion import REQUESTS, ConversionRequest
from cloud_service.teacher.identity import (
    ensemble_version,
    measured_on,
    member_version,
    source_digest,
    source_hashes,
)
from cloud_service.teacher.model import Model, Network
from cloud_service.teacher.onnx_network import has_cuda, open_onnx
from cloud_service.teacher.settings import Backend, Kind, TeacherSettings
from cloud_service.teacher.timing import fitting_clock, interleaved_us
from shared import atomic
from shared.errors import EdgeloopError, SettingsError

log = logging.getLogger(__name__)

_COMMAND = (sys.executable, "-m", "cloud_service.teacher.conversion")
_QUICK_ROUNDS = 7
# How often it is looked whether another process is done converting, and whether all of it is given up.
_LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class Loaded:
    """One of a task's teachers, open.

    Attributes:
        record: what it runs on and what was measured; nothing was where its settings left no choice.
    """

    member: Member
    version: str
    record: record.Record


async def load_model(task: TaskDefinition, *, folder: Path) -> Model:
    """A task's teacher, ready to answer; the first time on a host this converts and measures, which may take minutes.

    When it is cancelled, the converting process is ended; its thread ends soon after.

    Args:
        folder: where conversions and their records are kept.

    Raises:
        SettingsError: the settings name what does not exist or is not installed.
        TeacherError: a file is missing, does not load or run, or has another number of labels.
    """
    over = threading.Event()
    try:
        return await asyncio.to_thread(load, task, folder=folder, over=over)
    finally:
        over.set()


def load(task: TaskDefinition, *, folder: Path, over: threading.Event | None = None) -> Model:
    """`load_model`, in the caller's thread; `over` is set, perhaps by another one, to give it up."""
    return together(task, open_teachers(task, folder=folder, over=over))


def open_teachers(task: TaskDefinition, *, folder: Path, over: threading.Event | None = None) -> list[Loaded]:
    """Each of a task's teachers, converted and measured where that is not done; raises like `load_model`."""
    over = over or threading.Event()
    return [_load_one(teacher, task, folder=folder, over=over) for teacher in task.teacher]


def together(task: TaskDefinition, loaded: Sequence[Loaded]) -> Model:
    """All of a task's teachers as one, warmed up.

    Raises:
        TeacherError: it does not run, or has another number of labels.
    """
    version = ensemble_version([one.version for one in loaded], [teacher.share for teacher in task.teacher])
    network = compose([one.member for one in loaded])
    max_batch = min(one.record.choice.max_batch for one in loaded)
    _warm_up(network, task, sizes=(2, 1, max_batch))
    log.info("task %s: teacher %s is ready, batches of %d at most", task.name, version, max_batch)
    return Model(
        version,
        network,
        max_batch=max_batch,
        window_s=max(one.record.choice.window_s for one in loaded),
        temperature=shared_temperature(task.teacher),
    )


def _load_one(teacher: TeacherSettings, task: TaskDefinition, *, folder: Path, over: threading.Event) -> Loaded:
    for file in teacher.files:
        if not file.is_file():
            raise TeacherError(
                f"task {task.name!r}: there is no teacher at {file}: correct [tasks.{task.name}] teacher"
            )
    hashes = source_hashes(teacher)
    name = source_digest(hashes, teacher=teacher, terms=(task.input_shape, task.input_dtype, len(task.labels)))
    place = (folder / name).absolute()
    known = _choice(teacher, task, place, over=over)
    network = _open(teacher, task, known, place)
    member = Member(network, teacher.temperature, teacher.share, load_views(teacher, task=task.name))
    version = member_version(teacher, hashes, known.choice, converted_sha256=known.file_sha256)
    return Loaded(member, version, known)


def _choice(teacher: TeacherSettings, task: TaskDefinition, place: Path, *, over: threading.Event) -> record.Record:
    """What to run: as recorded, or without a question, or measured now, by one process at a time."""
    as_given = Backend.ONNXRUNTIME if teacher.kind is Kind.ONNX else Backend.TORCH
    if teacher.backend is as_given:
        return record.Record({}, Choice(as_given, reason="as set"))
    holds_for = measured_on(task.base_data)
    if known := _known(teacher, task, place, holds_for):
        return known
    place.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(place, task, over=over):
        if known := _known(teacher, task, place, holds_for):
            return known
        if quick := _not_worth_it(teacher, task, holds_for):
            record.write_record(place, quick)
            return quick
        try:
            return _convert(ConversionRequest(task, teacher, holds_for), place, over=over)
        except (SettingsError, TeacherError) as err:
            if teacher.backend is not Backend.AUTO or over.is_set():
                raise
            log.warning("task %s: %s runs as it is on %s: %s", task.name, teacher.model, as_given.value, err)
            return record.Record({}, Choice(as_given, reason=str(err)))


def _known(
    teacher: TeacherSettings, task: TaskDefinition, place: Path, holds_for: dict[str, str]
) -> record.Record | None:
    known = record.read_record(place, holds_for)
    if known is not None:
        log.info("task %s: %s runs on %s as measured before", task.name, teacher.model, known.choice.backend.value)
    return known


@contextmanager
def _one_at_a_time(place: Path, task: TaskDefinition, *, over: threading.Event) -> Iterator[None]:
    """A lock beside the folder; the system lets go of it when its process dies."""
    with place.with_name(f"{place.name}.lock").open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if over.wait(_LOOK_S):
                    raise _given_up(task) from None
        yield


def _not_worth_it(teacher: TeacherSettings, task: TaskDefinition, holds_for: dict[str, str]) -> record.Record | None:
    """A record for a small ONNX model, which no backend could make noticeably faster."""
    if teacher.kind is not Kind.ONNX or teacher.backend is not Backend.AUTO or has_cuda():
        return None
    network = _open_file(Path(teacher.model), teacher, task)
    samples = np.zeros((8, *task.input_shape), dtype=task.input_dtype)
    with _failing(teacher.model, task):
        clock = fitting_clock(threads=teacher.threads, on_cpu=True)
        (us,) = interleaved_us([network], samples, sizes=[SIZES[Device.CPU]], rounds=_QUICK_ROUNDS, clock=clock)
    measured = Measured(Backend.ONNXRUNTIME, us_per_sample=us, agreement=1.0)
    if measured.best_us > WORTH_US:
        return None
    reason = f"{measured.best_us:.0f} µs a sample as it is: nothing to gain"
    return record.Record(holds_for, Choice(Backend.ONNXRUNTIME, reason=reason), measured=(measured,))


def _convert(request: ConversionRequest, place: Path, *, over: threading.Event) -> record.Record:
    name, model = request.task.name, request.teacher.model
    log.info("task %s: converting and measuring %s on this host, once; large models take minutes", name, model)
    atomic.write_bytes(place / record.REQUEST, REQUESTS.dump_json(request, indent=2))
    code, errors = _run([*_COMMAND, str(place)], request.task, over=over)
    if code != 0:
        said = errors.strip().splitlines() or [f"the conversion ended with code {code} without a word"]
        kind: type[EdgeloopError] = SettingsError if code == SettingsError.exit_code else TeacherError
        raise kind(f"task {name!r}: {said[-1]}")
    known = record.read_record(place, request.holds_for)
    if known is None:
        raise TeacherError(f"task {name!r}: the conversion of {model} left no record in {place}: remove that folder")
    log.info("task %s: %s runs on %s: %s", name, model, known.choice.backend.value, known.choice.reason)
    return known


def _run(command: Sequence[str], task: TaskDefinition, *, over: threading.Event) -> tuple[int, str]:
    """Its exit code and what it wrote to stderr; it is killed when all is given up, for it writes its record last."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            while not over.is_set():
                with suppress(subprocess.TimeoutExpired):
                    errors = process.communicate(timeout=_LOOK_S)[1]
                    return process.returncode, errors
            raise _given_up(task)
        finally:
            process.kill()


def _given_up(task: TaskDefinition) -> TeacherError:
    return TeacherError(f"task {task.name!r}: its teacher is not converted: the service was told to end")


def _open(teacher: TeacherSettings, task: TaskDefinition, known: record.Record, place: Path) -> Network:
    if known.choice.backend is not Backend.TORCH:
        file = place / known.file if known.file else Path(teacher.model)
        return _open_file(file, teacher, task, device=known.choice.device)
    from cloud_service.teacher.torch_network import build, open_torch

    return open_torch(build(teacher, task), threads=teacher.threads, device=known.choice.device)


def _open_file(file: Path, teacher: TeacherSettings, task: TaskDefinition, *, device: Device = Device.CPU) -> Network:
    with _failing(teacher.model, task):
        return open_onnx(file, threads=teacher.threads, device=device)


def _warm_up(network: Network, task: TaskDefinition, *, sizes: Sequence[int]) -> None:
    """Run every batch size once, so that the first sample does not pay for memory, and hold the output to the task."""
    labels = len(task.labels)
    for size in sizes:
        samples = np.zeros((size, *task.input_shape), dtype=task.input_dtype)
        with _failing(_names(task), task):
            given = network(samples)
        if given.logits.shape != (size, labels):
            raise TeacherError(
                f"task {task.name!r}: the teacher {_names(task)} gives {list(given.logits.shape)} for {size} samples; "
                f"the task has {labels} labels"
            )
        if given.embedding is not None and (given.embedding.ndim != 2 or len(given.embedding) != size):
            raise TeacherError(
                f"task {task.name!r}: the embedding of the teacher {_names(task)} is {list(given.embedding.shape)} "
                f"for {size} samples, not [{size}, E]"
            )


def _names(task: TaskDefinition) -> str:
    return ", ".join(teacher.model for teacher in task.teacher)


@contextmanager
def _failing(model: str, task: TaskDefinition) -> Iterator[None]:
    """Name the teacher in whatever its runtime raises."""
    try:
        yield
    except EdgeloopError:
        raise
    # onnxruntime and torch raise classes of their own for each failure; each means that this is no teacher here.
    except Exception as err:
        raise TeacherError(f"task {task.name!r}: the teacher {model} does not run: {err}") from err
