"""The model that a candidate is held against: the bundle the fleet runs now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cloud_service.tasks.task import TaskDefinition
from cloud_service.training.evaluate import Runner, open_runner
from shared import bundle
from shared.errors import BundleError
from shared.manifest import Deferral
from shared.uncertainty import Score


@dataclass(frozen=True, slots=True)
class Incumbent:
    """A bundle, opened.

    Attributes:
        version: its manifest's.
        run: raw samples to logits.
        temperature: its manifest's.
        threshold: its manifest's.
        score: which score the threshold is of.
        deferral: that score's coefficients, where it is the learned one.
        model_bytes: size of its model.onnx.
        newest_upload: order of the newest upload it learnt from, −1 when none is known.
    """

    version: str
    run: Runner
    temperature: float
    threshold: float | None
    model_bytes: int
    newest_upload: int
    score: Score = Score.MAX_PROBABILITY
    deferral: Deferral | None = None


def open_incumbent(file: Path, folder: Path, task: TaskDefinition) -> Incumbent | None:
    """Unpack a bundle into `folder` and open it; None when there is no such file.

    Raises:
        BundleError: truncated, altered, or of another task, input or labels.
        ModelError: its model does not load.
    """
    if not file.exists():
        return None
    manifest = bundle.unpack(file, folder)
    if (manifest.task, manifest.input, manifest.labels) != (task.name, task.input, task.labels):
        raise BundleError(
            f"the incumbent {manifest.version} is of task {manifest.task}, input {manifest.input} and "
            f"{len(manifest.labels)} labels; the request's task {task.name} differs"
        )
    model = folder / bundle.MODEL
    newest = manifest.lineage.get("newest_upload")
    return Incumbent(
        version=manifest.version,
        run=open_runner(model),
        temperature=manifest.temperature,
        threshold=manifest.threshold,
        model_bytes=model.stat().st_size,
        newest_upload=newest if isinstance(newest, int) else -1,
        score=manifest.score,
        deferral=manifest.deferral,
    )
