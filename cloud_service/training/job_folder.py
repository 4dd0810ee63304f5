"""A training job's folder: what is laid into it before the run, what is read from it afterwards, and when it goes."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from cloud_service.storage.samples import TrainingSet
from cloud_service.training.job_table import Ended
from cloud_service.training.request import (
    INCUMBENT,
    INCUMBENT_WEIGHTS,
    REPORT,
    REQUEST,
    SAMPLES,
    SECONDS,
    TrainingReport,
    TrainingRequest,
    read_request,
)
from shared import atomic
from shared.errors import BundleError

log = logging.getLogger(__name__)

# Results of the stages that name the version; see `cloud_service.training.pipeline`.
_NAMING = ("bundle*.json",)
# The float student, as the stage distill leaves it.
_WEIGHTS = "student.pt"
# What each stage leaves when it has ended, and the file that counts the starts since.
_ENDED, _STARTS = f"*{SECONDS}", "starts.json"


@dataclass(frozen=True, slots=True)
class Incumbent:
    """What a candidate is held against; `weights`: what its own job trained, where that job's folder is here."""

    bundle: Path
    weights: Path | None


def lay_out(folder: Path, request: TrainingRequest, exported: TrainingSet | None, incumbent: Incumbent | None) -> None:
    """Put what the run needs into its folder; the request last, as the sign that all is there."""
    folder.mkdir(parents=True, exist_ok=True)
    if exported is not None:
        with atomic.replacing(folder / SAMPLES) as file:
            np.savez(
                file,
                x=exported.x,
                teacher_probs=exported.probabilities,
                weight=exported.weight,
                order=exported.number,
                certain=exported.certain,
            )
    if incumbent is not None:
        _copy(incumbent.bundle, folder / INCUMBENT)
        if incumbent.weights is not None:
            _copy(incumbent.weights, folder / INCUMBENT_WEIGHTS)
    atomic.write_json(folder / REQUEST, request.model_dump(mode="json"))


def weights_of(folders: Path, origin: str) -> Path | None:
    """The float weights that a bundle of this origin was made from; None: no job made it, or the folder is gone."""
    kind, _, job_id = origin.partition(":")
    file = folders / job_id / _WEIGHTS
    return file if kind == "job" and job_id and file.is_file() else None


def read_report(folder: Path) -> TrainingReport:
    """What the run came to.

    Raises:
        BundleError: the run left no such file.
    """
    try:
        return TrainingReport.model_validate_json((folder / REPORT).read_bytes())
    except (OSError, ValidationError) as err:
        raise BundleError(f"the training run left no readable {REPORT} in {folder}: {err}") from err


def begin(folder: Path) -> int:
    """Note that a run is started in the folder; how often it was since it last came a stage further, this included."""
    stages = len(list(folder.glob(_ENDED)))
    before, starts = _starts(folder)
    starts = starts + 1 if stages == before else 1
    atomic.write_json(folder / _STARTS, [stages, starts])
    return starts


def take_back(folder: Path) -> None:
    """Forget the last start: the run was stopped in good order, which says nothing against it."""
    stages, starts = _starts(folder)
    atomic.write_json(folder / _STARTS, [stages, max(0, starts - 1)])


def _starts(folder: Path) -> tuple[int, int]:
    try:
        stages, starts = json.loads((folder / _STARTS).read_bytes())
        return int(stages), int(starts)
    except (OSError, ValueError, TypeError):
        return 0, 0


def rename(folder: Path, version: str) -> None:
    """Give the candidate of a run that has ended another version; the run, started again, only packs it anew.

    Raises:
        SettingsError: the folder's request is gone.
        StorageFull: the disk took no more.
    """
    request = read_request(folder).model_copy(update={"version": version})
    atomic.write_json(folder / REQUEST, request.model_dump(mode="json"))
    for file in [folder / REPORT, *(file for pattern in _NAMING for file in folder.glob(pattern))]:
        atomic.remove(file)


def superfluous(ended: Sequence[Ended], *, keep: int) -> list[str]:
    """Ids of the jobs whose folders may go: neither among the newest `keep` of their task nor sent to a device.

    Args:
        ended: newest first.
    """
    seen: Counter[str] = Counter()
    found = []
    for job in ended:
        seen[job.task] += 1
        if seen[job.task] > keep and not job.shipped:
            found.append(job.id)
    return found


def remove(folders: Path, ids: Sequence[str]) -> int:
    """Delete these jobs' folders, as far as they are there; how many were."""
    there = [folders / name for name in ids if (folders / name).is_dir()]
    for folder in there:
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            log.warning("the job's folder %s cannot be removed: see who owns it", folder)
    return len(there)


def _copy(source: Path, target: Path) -> None:
    with atomic.replacing(target) as file, source.open("rb") as opened:
        shutil.copyfileobj(opened, file)
