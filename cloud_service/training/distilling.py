"""The stage distill: the teacher answers every view, then the folds' students and the final one learn it."""

from __future__ import annotations

import numpy as np
from torch import nn

from cloud_service.teacher.offline import open_whole_teacher
from cloud_service.training import distill, evaluate, weights
from cloud_service.training.pool import Pool, make_pool
from cloud_service.training.results import Distilled
from cloud_service.training.run import Run
from shared import atomic
from shared.errors import SettingsError

STUDENT, FOLDS, SCORES, SAVED = "student.pt", "folds.pt", "scores.npz", "distill.saved.pt"
_TOLD_APART = 0.5  # a teacher that is right so often once its labels are put into another order knows the task


def distil(this: Run) -> Distilled:
    """Train the folds' students and the final one; writes their weights and the out-of-fold scores."""
    trained = distill.train(
        this.task,
        pool_of(this),
        folds=this.folds,
        progress=this.progress,
        start=this.start,
        file=this.out / SAVED,
    )
    weights.save(trained.students[:-1], this.out / FOLDS)
    weights.save(trained.students[-1:], this.out / STUDENT)
    write_scores(this, trained.students, SCORES)
    return Distilled(
        uploads=len(this.samples),
        batch=trained.batch,
        steps=trained.steps,
        held_out_agreement=trained.agreement,
        from_incumbent=this.start is not None,
    )


def pool_of(this: Run) -> Pool:
    """What this run's students learn; made at the first call.

    Raises:
        SettingsError: the teacher has other labels than the task, or the same in another order.
        ModelError: the teacher does not run, or its answers are not finite.
    """
    if not this.pool:
        samples, base = this.samples, this.base
        pool = make_pool(
            this.task,
            open_whole_teacher(this.task),
            base=(base.x, base.y),
            uploads=(samples.x, samples.teacher_probs.argmax(axis=1)),
            seed=this.task.training.seed,
            certain=samples.certain,
        )
        _check_order(this, pool)
        this.pool.append(pool)
    return this.pool[0]


def write_scores(this: Run, students: list[nn.Module], name: str) -> None:
    """Write what each upload's own fold's student says of it; without folds, what the last one says."""
    scores = distill.out_of_fold(students, this.samples.x, folds=this.folds, classes=len(this.task.labels))
    with atomic.replacing(this.out / name) as file:
        np.savez(file, logits=scores)


def read_scores(this: Run, name: str) -> evaluate.Floats:
    """Logits float32 [n, C] that `write_scores` wrote."""
    with np.load(this.out / name) as file:
        logits: evaluate.Floats = file["logits"]
    return logits


def _check_order(this: Run, pool: Pool) -> None:
    """See that the teacher's labels stand in the task's order, as far as the base data can tell."""
    labels = this.task.labels
    given = pool.teacher_logits[: len(this.base.y)].argmax(dim=1).numpy()
    met = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(met, (given, this.base.y), 1)
    right, best = met.diagonal().sum() / len(given), met.argmax(axis=1)
    said = met.any(axis=1)
    is_order = len(set(best[said])) == said.sum()
    if right < 1.0 / len(labels) and is_order and met.max(axis=1).sum() / len(given) > _TOLD_APART:
        pairs = ", ".join(f"{labels[i]} for {labels[best[i]]}" for i in np.flatnonzero(said)[:5] if best[i] != i)
        raise SettingsError(
            f"the teacher of task {this.task.name} agrees with {right:.0%} of the base data's labels, yet would with "
            f"{met.max(axis=1).sum() / len(given):.0%} in another order ({pairs}): put the task's labels into the "
            "teacher's order"
        )
