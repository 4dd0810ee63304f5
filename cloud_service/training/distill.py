"""Distillation: students learn the teacher's answers on augmented views of the base data and of what devices sent.

The loss is in `loss`, what is learnt in `pool`, the steps in `course`. All students of a run (one for each fold of the
uploads, and the final one) are trained in the same steps, and the base data is replayed in full, so that what the
student knew at home is not forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cloud_service.tasks.task import TaskDefinition, TrainingSettings
from cloud_service.training.course import Course
from cloud_service.training.memory import with_room
from cloud_service.training.pool import Array, Floats, Pool, sources
from cloud_service.training.progress import Progress, Step
from cloud_service.training.weights import make_student
from shared import atomic

_ANSWERED_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Trained:
    """What a course left.

    Attributes:
        students: in evaluation mode, fold 0 first, the one that saw everything last.
        batch: samples of a step; half of the settings' where those did not fit into memory.
        steps: taken; fewer than the settings' where held-out agreement rose no more.
        agreement: with the teacher on held-out samples; None where none were held out.
    """

    students: list[nn.Module]
    batch: int
    steps: int
    agreement: float | None


def train(
    task: TaskDefinition,
    pool: Pool,
    *,
    folds: NDArray[np.int64],
    progress: Progress,
    start: Mapping[str, Tensor] | None = None,
    file: Path | None = None,
) -> Trained:
    """Train one student for each fold, without that fold's uploads, and last the one that saw everything.

    Args:
        task: gives the student and the settings.
        pool: what is learnt.
        folds: the fold of each upload, in the pool's order, as `pool.assign_folds` gives it.
        progress: told every hundredth of the way.
        start: the weights, which fit, that the last one begins with; None: its own, as the folds' students do.
        file: where the course is saved on the way, and from which it goes on; None: nowhere.

    Raises:
        ModelError: the loss is not finite, or half a batch does not fit into memory.
        SettingsError: the settings ask for what the pool does not give.
        StorageFull: the disk took no more.
    """
    settings = task.training

    def work(batch: int) -> Trained:
        torch.manual_seed(settings.seed)
        # The final student starts as a run without uploads would: what differs afterwards is what the uploads did.
        final = make_student(task)
        students = [make_student(task) for _ in range(int(folds.max(initial=-1)) + 1)] + [final]
        if start is not None:
            # Not the folds': the incumbent knows the older uploads, and their out-of-fold scores would be too good.
            final.load_state_dict(dict(start))
        course = Course(
            students,
            pool,
            allowed=sources(pool, folds, students=len(students)),
            settings=settings.model_copy(update={"batch": batch}),
            steps=settings.steps,
            learning_rate=settings.learning_rate,
        )

        def on_step(done: int, loss: float) -> None:
            progress(Step(stage="distill", done=done, total=settings.steps, message=f"loss {loss:.4f}"))

        passed = course.run(on_step, file=file)
        return Trained(students, batch, passed.steps, passed.agreement)

    trained = with_room(work, batch=settings.batch, what=f"the student of task {task.name}")
    if file is not None:
        atomic.remove(file)
    return trained


def fine_tune(
    student: nn.Module,
    pool: Pool,
    settings: TrainingSettings,
    *,
    steps: int,
    learning_rate: float,
    on_step: Callable[[int, float], None] | None = None,
    without: NDArray[np.bool_] | None = None,
) -> None:
    """Train one student further, in place, by the same loss; it ends in evaluation mode.

    Args:
        pool: what is learnt.
        settings: temperature, weights of the loss, batch, seed.
        steps: of the course; 0: nothing happens.
        learning_rate: peak of its one-cycle schedule.
        on_step: told the steps taken and the loss, every hundredth of the way.
        without: bool [uploads]: those that it must not see; None: it sees all.

    Raises:
        ModelError: the loss is not finite, or half a batch does not fit into memory.
    """
    if steps <= 0:
        student.eval()
        return
    base, uploads = torch.where(~pool.uploaded)[0], torch.where(pool.uploaded)[0]
    seen = uploads if without is None else uploads[torch.from_numpy(~without)]
    # It must take all of its steps: what prunes or quantizes counts on them.
    plain = settings.learning.model_copy(update={"patience": 0})
    before = {name: value.detach().clone() for name, value in student.state_dict().items()}

    def work(batch: int) -> None:
        student.load_state_dict(before)
        course = Course(
            [student],
            pool,
            allowed=[(base, seen)],
            settings=settings.model_copy(update={"batch": batch, "learning": plain}),
            steps=steps,
            learning_rate=learning_rate,
        )
        course.run(on_step or _nobody)

    with_room(work, batch=settings.batch, what="the student's fine-tuning")


@torch.no_grad()
def answer(student: nn.Module, x: Array) -> Floats:
    """Logits float32 [N, C] of raw samples [N, *shape]."""
    parts = [student(torch.from_numpy(x[at : at + _ANSWERED_AT_ONCE]))[0] for at in range(0, len(x), _ANSWERED_AT_ONCE)]
    return torch.cat(parts).numpy().astype(np.float32)


def out_of_fold(students: list[nn.Module], x: Array, *, folds: NDArray[np.int64], classes: int) -> Floats:
    """Logits float32 [n, C] of each upload by the student that did not train on it; without folds, by the last."""
    logits = np.empty((len(x), classes), dtype=np.float32)
    for fold in np.unique(folds):
        mine = folds == fold
        logits[mine] = answer(students[fold], x[mine])
    return logits


def _nobody(done: int, loss: float) -> None:
    """Tell nobody."""
