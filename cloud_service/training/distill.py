"""Distillation: students learn the teacher's answers on augmented views of the base data and of what devices sent.

Hinton et al. 2015, "Distilling the knowledge in a neural network"; the teacher answers the augmented view itself, as in
Beyer et al. 2022, "Knowledge distillation: a good teacher is patient and consistent". All students of a run (one for
each fold of the uploads, and the final one) are trained in the same steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional

from cloud_service.tasks.task import TaskDefinition, TrainingSettings, load_entry
from cloud_service.training.progress import Progress, Step

Array = NDArray[Any]
Floats = NDArray[np.float32]
Teacher = Callable[[Array], Floats]
"""Raw samples [N, *shape] in the task's dtype to logits float32 [N, C]."""

_DRAWN_AHEAD = 250  # steps whose samples are chosen at once
_TEACHER_BATCH = 512


@dataclass(frozen=True, slots=True)
class LossParts:
    """A loss and what it is made of; each a scalar, averaged over the samples."""

    total: Tensor
    kl: Tensor
    ce: Tensor


@dataclass(frozen=True, slots=True)
class Pool:
    """What is learnt: V views of n samples.

    Attributes:
        views: float32 [V·n, *shape]; view v of sample i is at v·n + i, view 0 is the sample itself.
        teacher_logits: float32 [V·n, C].
        labels: int64 [n].
        uploaded: bool [n]; false for base data.
    """

    views: Tensor
    teacher_logits: Tensor
    labels: Tensor
    uploaded: Tensor


def kl_divergence(teacher_log_probs: Tensor, student_log_probs: Tensor) -> Tensor:
    """Σ p·(log p − log q) over the last axis, averaged over the rest; p is the teacher's."""
    return (teacher_log_probs.exp() * (teacher_log_probs - student_log_probs)).sum(-1).mean()


def weigh(kl: Tensor, ce: Tensor, *, temperature: float, alpha: float, beta: float) -> LossParts:
    """α·T²·KL + β·CE; T² keeps the gradient's size when T changes."""
    return LossParts(total=alpha * temperature**2 * kl + beta * ce, kl=kl, ce=ce)


def distillation_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float, alpha: float, beta: float
) -> LossParts:
    """The loss of logits [..., C] against the teacher's [..., C] and labels int64 [...].

    T divides the logits before the softmax; the cross-entropy is of the student's plain logits.
    """
    kl = kl_divergence(
        functional.log_softmax(teacher / temperature, dim=-1), functional.log_softmax(student / temperature, dim=-1)
    )
    if beta == 0.0:
        return weigh(kl, kl.new_zeros(()), temperature=temperature, alpha=alpha, beta=beta)
    ce = functional.cross_entropy(student.flatten(0, -2), labels.flatten())
    return weigh(kl, ce, temperature=temperature, alpha=alpha, beta=beta)


def make_pool(
    task: TaskDefinition, teacher: Teacher, *, base: tuple[Array, Array], uploads: tuple[Array, Array], seed: int
) -> Pool:
    """Augment every sample and let the teacher answer each view once.

    Args:
        task: gives the augmentation and the number of views.
        teacher: answers raw samples.
        base: raw samples [b, *shape] and labels [b].
        uploads: raw samples [u, *shape] and the verdicts' answers [u].
        seed: of the augmentation.
    """
    generator = torch.Generator().manual_seed(seed)
    raw = np.concatenate([base[0], uploads[0]])
    samples = torch.from_numpy(raw.astype(np.float32))
    views = [samples]
    if task.augment is not None:
        augment = load_entry(task.augment, setting=f"tasks.{task.name}.augment")
        views += [augment(samples, generator) for _ in range(task.training.views - 1)]
    stacked = torch.cat(views)
    as_sensed = stacked.numpy().astype(raw.dtype)
    answers = [teacher(as_sensed[i : i + _TEACHER_BATCH]) for i in range(0, len(as_sensed), _TEACHER_BATCH)]
    return Pool(
        views=stacked,
        teacher_logits=torch.from_numpy(np.concatenate(answers).astype(np.float32)),
        labels=torch.from_numpy(np.concatenate([base[1], uploads[1]]).astype(np.int64)),
        uploaded=torch.arange(len(raw)) >= len(base[0]),
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


def train(task: TaskDefinition, pool: Pool, *, folds: NDArray[np.int64], progress: Progress) -> list[nn.Module]:
    """Train one student for each fold, without that fold's uploads, and last the one that saw everything.

    Args:
        task: gives the student and the settings.
        pool: what is learnt.
        folds: the fold of each upload, in the pool's order, as `assign_folds` gives it.
        progress: told every hundredth of the way.

    Returns:
        Students in evaluation mode, fold 0 first, the final one last.
    """
    settings = task.training
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    make = load_entry(task.student, setting=f"tasks.{task.name}.student")
    # The final student starts as a run without uploads would: what differs afterwards is what the uploads did.
    final: nn.Module = make(task)
    students = [make(task) for _ in range(int(folds.max(initial=-1)) + 1)] + [final]
    group = _Group(students)
    optimiser = torch.optim.AdamW(
        group.parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=settings.learning_rate, total_steps=settings.steps + 1
    )
    sources = _sources(pool, folds, students=len(students))
    report_every = max(1, settings.steps // 100)
    for step in range(settings.steps):
        if step % _DRAWN_AHEAD == 0:
            drawn = _draw(sources, pool, settings, generator)
        chosen = drawn[step % _DRAWN_AHEAD]
        loss = distillation_loss(
            group.forward(pool.views[chosen]),
            pool.teacher_logits[chosen],
            pool.labels[chosen % len(pool.labels)],
            temperature=settings.temperature,
            alpha=settings.alpha,
            beta=settings.beta,
        )
        optimiser.zero_grad()
        # Each student gets the gradient of its own mean: the mean over all of them is that divided by their number.
        (loss.total * len(students)).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if (step + 1) % report_every == 0:
            progress(Step(stage="distill", done=step + 1, total=settings.steps, message=f"loss {loss.total:.4f}"))
    group.release()
    return students


@torch.no_grad()
def answer(student: nn.Module, x: Array) -> Floats:
    """Logits float32 [N, C] of raw samples [N, *shape]."""
    logits: Tensor = student(torch.from_numpy(x))[0]
    return logits.numpy().astype(np.float32)


def out_of_fold(students: list[nn.Module], x: Array, *, folds: NDArray[np.int64], classes: int) -> Floats:
    """Logits float32 [n, C] of each upload by the student that did not train on it; without folds, by the last."""
    logits = np.empty((len(x), classes), dtype=np.float32)
    for fold in np.unique(folds):
        mine = folds == fold
        logits[mine] = answer(students[fold], x[mine])
    return logits


class _Group:
    """Several students of one kind run as one: batched by vmap where they have no buffers, else one after another."""

    def __init__(self, students: list[nn.Module]) -> None:
        self._students = students
        for student in students:
            student.train()
        self._stacked: dict[str, Tensor] | None = None
        # Batch statistics are written in place, which vmap cannot do.
        if any(True for _ in students[0].buffers()):
            self.parameters = [parameter for student in students for parameter in student.parameters()]
            return
        stacked = {name: value.detach().clone() for name, value in stack_module_state(students)[0].items()}
        self.parameters = [value.requires_grad_() for value in stacked.values()]
        self._stacked = stacked
        first = students[0]

        def logits(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
            result: Tensor = functional_call(first, parameters, (x,))[0]
            return result

        self._logits = vmap(logits, randomness="different")

    def forward(self, x: Tensor) -> Tensor:
        """Inputs [M, B, *shape] to logits [M, B, C]."""
        if self._stacked is None:
            return torch.stack([student(x[i])[0] for i, student in enumerate(self._students)])
        result: Tensor = self._logits(self._stacked, x)
        return result

    def release(self) -> None:
        """Write the trained values back into the students and put them into evaluation mode."""
        for i, student in enumerate(self._students):
            if self._stacked is not None:
                student.load_state_dict({name: value[i].detach() for name, value in self._stacked.items()})
            student.eval()


def _sources(pool: Pool, folds: NDArray[np.int64], *, students: int) -> list[tuple[Tensor, Tensor]]:
    """For each student, the base samples and the uploads it may see, as indices."""
    base, uploads = torch.where(~pool.uploaded)[0], torch.where(pool.uploaded)[0]
    assigned = torch.from_numpy(folds)
    return [(base, uploads[assigned != fold]) for fold in range(students - 1)] + [(base, uploads)]


def _draw(
    sources: list[tuple[Tensor, Tensor]], pool: Pool, settings: TrainingSettings, generator: torch.Generator
) -> Tensor:
    """Views for the next steps, int64 [steps, students, batch]: `upload_share` of each batch from the uploads."""

    def pick(indices: Tensor, count: int) -> Tensor:
        return indices[torch.randint(len(indices), (_DRAWN_AHEAD, count), generator=generator)]

    rows = []
    for base, uploads in sources:
        from_uploads = round(settings.batch * settings.upload_share) if len(uploads) else 0
        parts = [pick(base, settings.batch - from_uploads)]
        rows.append(torch.cat([*parts, pick(uploads, from_uploads)] if from_uploads else parts, dim=1))
    samples = torch.stack(rows, dim=1)
    views = len(pool.views) // len(pool.labels)
    return torch.randint(views, samples.shape, generator=generator) * len(pool.labels) + samples
