"""A whole training run on this computer, without a service: `edgeloop distill run --local`.

The same child process over the same kind of folder as a job's; run again on the folder, it goes on where it was.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cloud_service.tasks.task import TaskDefinition
from cloud_service.tasks.task_file import read_task_file
from cloud_service.training.child import COMMAND, KILLED, failure, run_child
from cloud_service.training.lineage import differences
from cloud_service.training.progress import Step
from cloud_service.training.request import (
    ERROR,
    INCUMBENT,
    LINEAGE,
    NOTED,
    REPORT,
    REQUEST,
    SAMPLES,
    SECONDS,
    TrainingRequest,
    read_request,
)
from cloud_service.training.stage import Stage
from shared import atomic
from shared.bundle import sha256_file
from shared.errors import EdgeloopError, SettingsError

log = logging.getLogger(__name__)


class RunFailed(EdgeloopError):
    """The training process ended with an error; the exit code is its own."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def read_task(file: Path) -> TaskDefinition:
    """The task in a file, its relative paths below the file's folder.

    Raises:
        SettingsError: missing, not TOML, or with a key that is unknown or impossible.
    """
    return read_task_file(file)


def run_here(
    task_file: Path,
    out: Path,
    *,
    on_step: Callable[[Step], None],
    samples: Path | None = None,
    incumbent: Path | None = None,
    seed: int | None = None,
    stage: Stage | None = None,
    command: Sequence[str] = COMMAND,
) -> dict[str, Any]:
    """Train in `out` and give the report; of one stage alone, each variant's result by its name (`prune.half`).

    Args:
        samples: .npz as a job has it: x, teacher_probs, weight, order, and certain where people labelled.
        incumbent: bundle that the candidate is held against.
        stage: do this one alone, from what those before it left in `out`, again if it was done before.

    Raises:
        SettingsError: a file is missing or wrong, another process works in `out`, or it holds another run.
        RunFailed: the run's own error.
        StorageFull: the disk took no more.
    """
    task = read_task(task_file)
    if seed is not None:
        task = task.model_copy(update={"training": task.training.model_copy(update={"seed": seed})})
    with _claimed(out):
        _lay_out(out, TrainingRequest(task=task), {SAMPLES: samples, INCUMBENT: incumbent})
        atomic.remove(out / ERROR)
        asked = command if stage is None else (*command, "--stage", stage.value)
        code = asyncio.run(run_child(asked, out, on_step))
    if code != 0:
        raise RunFailed(failure(out, code), code if code > 0 else 70)
    if stage is not None:
        return _results(out, stage)
    report: dict[str, Any] = json.loads((out / REPORT).read_bytes())
    return report


def _results(out: Path, stage: Stage) -> dict[str, Any]:
    files = [out / f"{stage.value}.json", *sorted(out.glob(f"{stage.value}.*.json"))]
    return {
        file.name.removesuffix(".json"): json.loads(file.read_bytes())
        for file in files
        if file.exists() and not file.name.endswith(SECONDS)
    }


@contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """A lock on the folder: a second run would end the first one's process, taking it for left behind."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as err:
        raise SettingsError(f"cannot prepare {out}: {err.strerror}") from err
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise SettingsError(f"another run works in {out}: wait for its end, or use another folder") from err
        except OSError as err:
            log.warning("%s cannot be locked (%s): take care that no second run works in it", out, err)
        yield
    finally:
        os.close(descriptor)


def _lay_out(out: Path, request: TrainingRequest, files: dict[str, Path | None]) -> None:
    """Make the folder this run's, or see that it already is; the request is written last."""
    if (out / REQUEST).exists():
        if _is_same(out, request, files):
            return
        if _has_results(out):
            raise SettingsError(
                f"{out} holds a run of another task, other samples or settings ({_what_differs(out, request, files)}): "
                "use an empty folder"
            )
        _empty(out)  # it came to nothing: it may be begun anew with what was corrected
    try:
        for name, source in files.items():
            if source is not None:
                with atomic.replacing(out / name) as target, source.open("rb") as opened:
                    shutil.copyfileobj(opened, target)
    except OSError as err:
        raise SettingsError(f"cannot prepare {out}: {err.filename}: {err.strerror}") from err
    atomic.write_json(out / REQUEST, request.model_dump(mode="json"))


def _what_differs(out: Path, request: TrainingRequest, files: dict[str, Path | None]) -> str:
    before, now = read_request(out).model_dump(mode="json"), request.model_dump(mode="json")
    found = differences(before, now)
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    if found:
        return "; ".join(found[:3]) + more
    given = [name for name, source in files.items() if source is not None]
    return f"given now: {', '.join(given) or 'neither --samples nor --incumbent'}"


def _has_results(out: Path) -> bool:
    """Whether a run in the folder came so far that somebody may want to go on: half a course of training is hours."""
    return any(file for pattern in (f"*{SECONDS}", "*.saved.pt", "student.pt") for file in out.glob(pattern))


def _empty(out: Path) -> None:
    for name in (REQUEST, SAMPLES, INCUMBENT, ERROR, KILLED, LINEAGE, NOTED):
        atomic.remove(out / name)


def _is_same(out: Path, request: TrainingRequest, files: dict[str, Path | None]) -> bool:
    try:
        return read_request(out) == request and all(
            (out / name).exists() == (source is not None)
            and (source is None or sha256_file(out / name) == sha256_file(source))
            for name, source in files.items()
        )
    except (OSError, ValidationError) as err:
        raise SettingsError(f"cannot compare {out} with this run: {err}") from err
