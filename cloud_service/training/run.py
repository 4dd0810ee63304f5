"""A training run: what every stage sees of it, read and checked before anything is trained."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import JsonValue, TypeAdapter
from torch import Tensor

from cloud_service.tasks.compression import DEFAULT_VARIANTS
from cloud_service.tasks.data import BaseData, Samples, load_base, load_samples
from cloud_service.tasks.learning import Start, TeachSettings
from cloud_service.tasks.task import ENTRY, TaskDefinition, TrainingSettings
from cloud_service.training import evaluate, weights
from cloud_service.training.child import KILLED
from cloud_service.training.incumbent import Incumbent, open_incumbent
from cloud_service.training.lineage import describe_lineage
from cloud_service.training.pool import Pool, assign_folds, number_contents
from cloud_service.training.progress import Progress
from cloud_service.training.request import INCUMBENT, INCUMBENT_WEIGHTS, LINEAGE, SAMPLES, TrainingRequest
from cloud_service.training.tracking import check_installed
from shared import atomic
from shared.bundle import sha256_file
from shared.errors import SettingsError

log = logging.getLogger(__name__)

_Batched = TypeVar("_Batched", TrainingSettings, TeachSettings)


@dataclass(frozen=True, slots=True)
class Run:
    """What every stage sees.

    Attributes:
        folds: the fold of each upload, −1 for all when there are none.
        start: weights that the final student begins with; None: from scratch.
        pool: what students learn, once a stage has asked for it: the teacher answers every view, which takes its time.
    """

    task: TaskDefinition
    version: str
    created_at: str
    out: Path
    progress: Progress
    base: BaseData
    samples: Samples
    folds: evaluate.Labels
    incumbent: Incumbent | None
    lineage: dict[str, JsonValue]
    start: dict[str, Tensor] | None = None
    pool: list[Pool] = field(default_factory=list)

    @property
    def judged_by_uploads(self) -> bool:
        """Whether uploads are scored out of fold; else there are none, or too few to hold some out."""
        return bool((self.folds >= 0).any())


def prepare(request: TrainingRequest, out: Path, progress: Progress) -> Run:
    """Read and check everything the run needs; raises what `pipeline.run` lists."""
    task = request.task
    if task.tracking is not None:
        check_installed()
    files = [(file, "teacher") for teacher in task.teacher for file in teacher.files]
    for path, setting in (*files, (task.base_data, "base_data")):
        if not (path.exists() or ENTRY.match(str(path))):
            makes = ", or make it with --stage teach" if setting == "teacher" and task.teach is not None else ""
            raise SettingsError(
                f"{setting} of task {task.name}: there is no file {path}: correct {setting} in its settings{makes}"
            )
    out.mkdir(parents=True, exist_ok=True)
    base, samples = load_base(task), load_samples(out / SAMPLES, task)
    check_labels(base, task)
    incumbent = open_incumbent(out / INCUMBENT, out / "incumbent", task)
    lineage = describe_lineage(
        task,
        base,
        samples=out / SAMPLES,
        newest_upload=int(samples.order.max()) if len(samples) else None,
        parent=incumbent.version if incumbent else None,
    )
    if task.compression != DEFAULT_VARIANTS:
        lineage["compression"] = [variant.model_dump(mode="json") for variant in task.compression]
    start = _find_start(out / INCUMBENT_WEIGHTS, task)
    if start is not None:
        lineage["started_from_sha256"] = sha256_file(out / INCUMBENT_WEIGHTS)
    _claim(out / LINEAGE, lineage)
    return Run(
        task=halved(task) if (out / KILLED).exists() else task,
        version=request.version or f"{task.name}-{_digest(lineage)[:8]}",
        created_at=request.created_at,
        out=out,
        progress=progress,
        base=base,
        samples=samples,
        folds=_folds(samples, task),
        incumbent=incumbent,
        lineage=lineage,
        start=start,
    )


def _digest(lineage: dict[str, JsonValue]) -> str:
    """Of all that a run is made from: another setting is another version."""
    return hashlib.sha256(json.dumps(lineage, sort_keys=True).encode()).hexdigest()


def halved(task: TaskDefinition) -> TaskDefinition:
    """The task with half a batch, in training and in teaching; said."""
    changed: dict[str, object] = {"training": _half(task.training)}
    if task.teach is not None:
        changed["teach"] = _half(task.teach)
    log.warning("task %s: an earlier process was killed, as for want of memory: half a batch from here on", task.name)
    return task.model_copy(update=changed)


def _half(settings: _Batched) -> _Batched:
    return settings.model_copy(update={"batch": max(1, settings.batch // 2)})


def check_labels(base: BaseData, task: TaskDefinition) -> None:
    """Hold the base data's labels against what can be learnt.

    Raises:
        SettingsError: all samples, or all held-out ones, have one label.
    """
    for name, labels in (("y", base.y), ("y_eval", base.y_eval)):
        counts = np.bincount(labels, minlength=len(task.labels))
        if (counts > 0).sum() < 2:
            raise SettingsError(
                f"base_data of task {task.name}: every label in {name} is {task.labels[int(counts.argmax())]!r}: "
                "there is nothing to tell apart; add samples of the other labels"
            )
        absent = [label for label, count in zip(task.labels, counts, strict=True) if not count]
        if absent:
            log.warning(
                "task %s: the base data has no sample of %s in %s: %s",
                task.name,
                ", ".join(absent),
                name,
                "only the teacher and uploads speak of it" if name == "y" else "nothing shows what was forgotten of it",
            )


def _folds(samples: Samples, task: TaskDefinition) -> evaluate.Labels:
    """Equal uploads share a fold: a student that learnt one must not be judged on its twin."""
    same = number_contents(samples.x)
    return assign_folds(int(same.max(initial=-1)) + 1, task.training.folds, seed=task.training.seed)[same]


def _find_start(file: Path, task: TaskDefinition) -> dict[str, Tensor] | None:
    if task.training.learning.start is Start.SCRATCH:
        return None
    if not file.is_file():
        log.warning("the student starts from scratch: the incumbent's float weights are not known (%s)", file)
        return None
    return weights.read_start(file, task)


def _claim(file: Path, lineage: dict[str, JsonValue]) -> None:
    """Make the folder this run's, or see that it already is."""
    if not file.exists():
        atomic.write_json(file, lineage)
    elif TypeAdapter(dict[str, JsonValue]).validate_json(file.read_bytes()) != lineage:
        raise SettingsError(f"{file.parent} holds a run over other data or settings: use an empty folder")
