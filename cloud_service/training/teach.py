"""The stage teach: train or adapt a teacher on labelled data.

The labelled data is the base data and those uploads that a person labelled. What it leaves, `teacher.pt`, is named
in the task afterwards: `teacher = { model = "…", weights = "RUN/teacher.pt" }`. A teacher should be as good as it can
be: it may be large, and nothing of it goes to a device.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cloud_service.errors import TeacherError
from cloud_service.tasks.data import load_base, load_samples
from cloud_service.tasks.learning import TeachSettings
from cloud_service.tasks.task import TaskDefinition, load_entry
from cloud_service.teacher.settings import TeacherSettings
from cloud_service.teacher.torch_network import make, read_weights
from cloud_service.training.child import KILLED
from cloud_service.training.lessons import Lessons, Part, share_right
from cloud_service.training.memory import with_room
from cloud_service.training.progress import Progress
from cloud_service.training.request import SAMPLES, TrainingRequest
from cloud_service.training.run import check_labels, halved
from shared import atomic
from shared.errors import SettingsError

log = logging.getLogger(__name__)

TEACHER, SAVED = "teacher.pt", "teach.saved.pt"


@dataclass(frozen=True, slots=True)
class Taught:
    """What teaching came to.

    Attributes:
        network: as the setting names it.
        weights: the file to name beside it.
        parameters: of the network.
        batch: samples of a step; half of what was asked for where memory did not suffice.
        steps: taken.
        held_out_accuracy: on the part of the base data that chose the weights; none of it was trained on.
        base_accuracy: on x_eval, which decided nothing.
        field_labels: uploads with a person's label that it learnt from.
        begun_anew: parameters that the given weights did not have, or had in another shape; none without weights.
    """

    network: str
    weights: str
    parameters: int
    batch: int
    steps: int
    held_out_accuracy: float
    base_accuracy: float
    field_labels: int
    begun_anew: tuple[str, ...]


def teach(request: TrainingRequest, out: Path, progress: Progress) -> Taught:
    """Train the teacher that the task's `teach` describes; writes teacher.pt.

    Raises:
        SettingsError: the task has no such table, names what does not exist, or its data has one label only.
        TeacherError: the given weights cannot be read, or nothing of them fits.
        ModelError: the loss is not finite, or half a batch does not fit into memory.
        StorageFull: the disk took no more.
    """
    task = halved(request.task) if (out / KILLED).exists() else request.task
    settings = task.teach
    if settings is None:
        raise SettingsError(
            f"task {task.name} says nothing of a teacher to train: add [tasks.{task.name}.teach] with network = "
            '"module:function"'
        )
    out.mkdir(parents=True, exist_ok=True)
    base, uploads = load_base(task), load_samples(out / SAMPLES, task)
    check_labels(base, task)
    held = hold_out(base.y, settings.held_out, seed=task.training.seed)
    learnt = _tensors(
        np.concatenate([base.x[~held], uploads.x[uploads.certain]]),
        np.concatenate([base.y[~held], uploads.teacher_probs[uploads.certain].argmax(axis=1)]),
    )
    augment = load_entry(task.augment, setting=f"tasks.{task.name}.augment") if task.augment else None

    def work(batch: int) -> Taught:
        torch.manual_seed(task.training.seed)
        module, body, anew = begin(settings, task)
        course = Lessons(
            module,
            [Part(*learnt, batch)],
            settings=settings,
            seed=task.training.seed,
            augment=augment,
            slow=[name for name, _ in body.named_parameters() if name not in anew] if settings.weights else (),
            body=body,
            held=_tensors(base.x[held], base.y[held]),
        )
        steps = course.run(progress, file=out / SAVED)
        with atomic.replacing(out / TEACHER) as target:
            torch.save(body.state_dict(), target)
        return Taught(
            network=settings.network,
            weights=str(out / TEACHER),
            parameters=sum(value.numel() for value in module.parameters()),
            batch=batch,
            steps=steps,
            held_out_accuracy=course.best or 0.0,
            base_accuracy=share_right(module, *_tensors(base.x_eval, base.y_eval)),
            field_labels=int(uploads.certain.sum()),
            begun_anew=tuple(anew) if settings.weights else (),
        )

    taught = with_room(work, batch=settings.batch, what=f"the teacher of task {task.name}")
    atomic.remove(out / SAVED)
    log.info(
        'the teacher is right on %.1f %% of x_eval: teacher = { model = "%s", weights = "%s" }',
        taught.base_accuracy * 100.0,
        taught.network,
        taught.weights,
    )
    return taught


def _tensors(x: NDArray[Any], y: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y)


def begin(settings: TeachSettings, task: TaskDefinition) -> tuple[nn.Module, nn.Module, list[str]]:
    """The network with what fits of the given weights, the part they are of, and the names of what begins anew.

    Raises:
        SettingsError: the network does not exist or is not installed.
        TeacherError: the weights cannot be read, or nothing of them fits.
    """
    named = TeacherSettings(
        model=settings.network,
        weights=settings.weights or Path(TEACHER),
        width=settings.width,
        picture_max=settings.picture_max,
        picture_size=settings.picture_size,
    )
    module, body = make(named, task)
    own = body.state_dict()
    if settings.weights is None:
        return module, body, list(own)
    given = read_weights(settings.weights)
    fitting = {name: value for name, value in given.items() if name in own and value.shape == own[name].shape}
    if not fitting:
        raise TeacherError(f"nothing in {settings.weights} fits {settings.network}: name the weights of that network")
    body.load_state_dict(fitting, strict=False)
    anew = [name for name in own if name not in fitting]
    if anew:
        log.warning("%s does not fit %s in %s: these begin anew", settings.weights, settings.network, ", ".join(anew))
    return module, body, anew


def hold_out(labels: np.ndarray[Any, np.dtype[np.int64]], share: float, *, seed: int) -> np.ndarray[Any, Any]:
    """bool [N]: `share` of each label's samples, at least one and never all of them."""
    rng = np.random.default_rng(seed)
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        mine = rng.permutation(np.flatnonzero(labels == label))
        held[mine[: min(max(1, round(len(mine) * share)), len(mine) - 1)]] = True
    return held
