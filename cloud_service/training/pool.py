"""What students learn from: augmented views of the base data and of what devices sent, each answered by the teacher.

The teacher answers the augmented view itself, as in Beyer et al. 2022, "Knowledge distillation: a good teacher is
patient and consistent". Where somebody's label contradicts the teacher, the label takes the teacher's place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cloud_service.errors import ModelError
from cloud_service.tasks.task import TaskDefinition, TrainingSettings, load_entry
from cloud_service.teacher.model import Outputs
from shared.errors import SettingsError

log = logging.getLogger(__name__)

Array = NDArray[Any]
Floats = NDArray[np.float32]
Teacher = Callable[[Array], Floats | Outputs]
"""Raw samples [N, *shape] in the task's dtype to logits float32 [N, C], or these and more."""
Source = tuple[Tensor, Tensor]
"""What one student may see: base samples and uploads, as indices of the pool's samples."""

DRAWN_AHEAD = 250  # steps whose samples are chosen at once
_TEACHER_BATCH = 512
_IMPOSSIBLE = -1e4  # a logit whose probability is 0 at any temperature below 100


@dataclass(frozen=True, slots=True)
class Pool:
    """What is learnt: V views of n samples.

    Attributes:
        views: float32 [V·n, *shape], view v of sample i at v·n + i; view 0 is the sample itself.
        teacher_logits: float32 [V·n, C], the teacher's answer to the view, or the certain label in its place.
        labels: int64 [n].
        uploaded: bool [n]; false for base data.
        embeddings: float32 [V·n, E], the teacher's; None where it gives none.
    """

    views: Tensor
    teacher_logits: Tensor
    labels: Tensor
    uploaded: Tensor
    embeddings: Tensor | None = None


def make_pool(
    task: TaskDefinition,
    teacher: Teacher,
    *,
    base: tuple[Array, Array],
    uploads: tuple[Array, Array],
    seed: int,
    certain: NDArray[np.bool_] | None = None,
) -> Pool:
    """Augment every sample and let the teacher answer each view once.

    Args:
        task: gives the augmentation and the number of views.
        teacher: answers raw samples.
        base: raw samples [b, *shape] and labels [b].
        uploads: raw samples [u, *shape] and their final labels [u].
        seed: of the augmentation.
        certain: bool [u]: uploads whose label leaves no doubt, as a human's does; None: none. Where the teacher says
            otherwise, the students learn the label from all views.

    Raises:
        SettingsError: the teacher has another number of labels than the task.
        ModelError: the teacher's answers are not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    raw = np.concatenate([base[0], uploads[0]])
    samples = torch.from_numpy(raw.astype(np.float32))
    views = [samples]
    if task.augment is not None:
        augment = load_entry(task.augment, setting=f"tasks.{task.name}.augment")
        views += [augment(samples, generator) for _ in range(task.training.views - 1)]
    stacked = torch.cat(views)
    logits, embeddings = _ask(task, teacher, stacked.numpy().astype(raw.dtype))
    labels = np.concatenate([base[1], uploads[1]]).astype(np.int64)
    if certain is not None and certain.any():
        _let_labels_win(logits, labels, np.concatenate([np.zeros(len(base[0]), bool), certain]))
    return Pool(
        views=stacked,
        teacher_logits=torch.from_numpy(logits),
        labels=torch.from_numpy(labels),
        uploaded=torch.arange(len(raw)) >= len(base[0]),
        embeddings=embeddings,
    )


def number_contents(x: Array) -> NDArray[np.int64]:
    """A number for each sample of [n, *shape], from 0 in order of first appearance; equal samples share one."""
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault(sha256(sample.tobytes()).digest(), len(numbers)) for sample in x], np.int64)


def assign_folds(count: int, folds: int, *, seed: int) -> NDArray[np.int64]:
    """A fold 0..folds−1 for each of `count` contents, sizes within one of each other; −1 for all: there are none."""
    if folds < 2 or count < 2 * folds:
        return np.full(count, -1, dtype=np.int64)
    order = np.random.default_rng(seed).permutation(count)
    assigned = np.empty(count, dtype=np.int64)
    assigned[order] = np.arange(count) % folds
    return assigned


def sources(pool: Pool, folds: NDArray[np.int64], *, students: int) -> list[Source]:
    """What each student may see: all of the base data, and the uploads but its own fold's; the last one all."""
    base, uploads = torch.where(~pool.uploaded)[0], torch.where(pool.uploaded)[0]
    assigned = torch.from_numpy(folds)
    return [(base, uploads[assigned != fold]) for fold in range(students - 1)] + [(base, uploads)]


def draw(allowed: list[Source], pool: Pool, settings: TrainingSettings, generator: torch.Generator) -> Tensor:
    """Views for the next steps, int64 [steps, students, batch]: `upload_share` of each batch from the uploads."""

    def pick(indices: Tensor, count: int) -> Tensor:
        return indices[torch.randint(len(indices), (DRAWN_AHEAD, count), generator=generator)]

    rows = []
    for base, uploads in allowed:
        from_uploads = round(settings.batch * settings.upload_share) if len(uploads) else 0
        parts = [pick(base, settings.batch - from_uploads)]
        rows.append(torch.cat([*parts, pick(uploads, from_uploads)] if from_uploads else parts, dim=1))
    samples = torch.stack(rows, dim=1)
    views = len(pool.views) // len(pool.labels)
    return torch.randint(views, samples.shape, generator=generator) * len(pool.labels) + samples


def _ask(task: TaskDefinition, teacher: Teacher, samples: Array) -> tuple[Floats, Tensor | None]:
    logits: list[Floats] = []
    embeddings: list[Floats] = []
    for at in range(0, len(samples), _TEACHER_BATCH):
        given = teacher(samples[at : at + _TEACHER_BATCH])
        outputs = given if isinstance(given, Outputs) else Outputs(given)
        if at == 0 and outputs.logits.shape[1:] != (len(task.labels),):
            raise SettingsError(
                f"the teacher of task {task.name} gives answers of shape {list(outputs.logits.shape[1:])}; the task "
                f"has {len(task.labels)} labels: name a teacher of these labels, or teach one (--stage teach)"
            )
        logits.append(outputs.logits)
        if outputs.embedding is not None:
            embeddings.append(outputs.embedding.reshape(len(outputs.logits), -1))
    answers = np.concatenate(logits).astype(np.float32)
    if wrong := int((~np.isfinite(answers)).any(axis=1).sum()):
        raise ModelError(
            f"the teacher of task {task.name} gives answers that are not finite for {wrong} of {len(answers)} samples: "
            "look for NaN in the samples, or mend the teacher"
        )
    return answers, torch.from_numpy(np.concatenate(embeddings).astype(np.float32)) if embeddings else None


def _let_labels_win(logits: Floats, labels: NDArray[np.int64], certain: NDArray[np.bool_]) -> None:
    """Put certain labels in the place of answers that contradict them, in place and in every view."""
    contradicted = np.flatnonzero(certain & (logits[: len(labels)].argmax(axis=1) != labels))
    for at in range(0, len(logits), len(labels)):
        logits[at + contradicted] = _IMPOSSIBLE
        logits[at + contradicted, labels[contradicted]] = 0.0
    if len(contradicted):
        log.info("%d uploads have a label that the teacher contradicts: the label is learnt", len(contradicted))
