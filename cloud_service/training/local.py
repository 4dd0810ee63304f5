"""A whole training run on this computer, without a service: `edgeloop distill run --local`.

The same child process over the same kind of folder as a job's; run again on the folder, it goes on where it was.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cloud_service.tasks.task import TaskDefinition
from cloud_service.tasks.task_file import read_task_file
from cloud_service.training.child import COMMAND, failure, run_child
from cloud_service.training.progress import Step
from cloud_service.training.request import ERROR, INCUMBENT, REPORT, REQUEST, SAMPLES, TrainingRequest, read_request
from shared import atomic
from shared.bundle import sha256_file
from shared.errors import EdgeloopError, SettingsError


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
    command: Sequence[str] = COMMAND,
) -> dict[str, Any]:
    """Train in `out` and give the report.

    Args:
        samples: .npz as a job has it: x, teacher_probs, weight, order.
        incumbent: bundle that the candidate is held against.

    Raises:
        SettingsError: a file is missing or wrong, or `out` holds another run.
        RunFailed: the run's own error.
        StorageFull: the disk took no more.
    """
    task = read_task(task_file)
    if seed is not None:
        task = task.model_copy(update={"training": task.training.model_copy(update={"seed": seed})})
    _lay_out(out, TrainingRequest(task=task), {SAMPLES: samples, INCUMBENT: incumbent})
    atomic.remove(out / ERROR)
    code = asyncio.run(run_child(command, out, on_step))
    if code != 0:
        raise RunFailed(failure(out, code), code if code > 0 else 70)
    report: dict[str, Any] = json.loads((out / REPORT).read_bytes())
    return report


def _lay_out(out: Path, request: TrainingRequest, files: dict[str, Path | None]) -> None:
    """Make the folder this run's, or see that it already is; the request is written last."""
    if (out / REQUEST).exists():
        _same(out, request, files)
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, source in files.items():
            if source is not None:
                with atomic.replacing(out / name) as target, source.open("rb") as opened:
                    shutil.copyfileobj(opened, target)
    except OSError as err:
        raise SettingsError(f"cannot prepare {out}: {err.filename}: {err.strerror}") from err
    atomic.write_json(out / REQUEST, request.model_dump(mode="json"))


def _same(out: Path, request: TrainingRequest, files: dict[str, Path | None]) -> None:
    try:
        same = read_request(out) == request and all(
            (out / name).exists() == (source is not None)
            and (source is None or sha256_file(out / name) == sha256_file(source))
            for name, source in files.items()
        )
    except (OSError, ValidationError) as err:
        raise SettingsError(f"cannot compare {out} with this run: {err}") from err
    if not same:
        raise SettingsError(f"{out} holds a run of another task, other samples or settings: use an empty folder")
