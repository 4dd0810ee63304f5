"""A course of training by distillation: steps of a group of students that can be cut off and taken up again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cloud_service.errors import ModelError
from cloud_service.tasks.task import TrainingSettings
from cloud_service.training import pool as pools
from cloud_service.training.group import Group
from cloud_service.training.loss import LossParts, distillation_loss, with_feature
from cloud_service.training.pool import DRAWN_AHEAD, Pool, Source
from shared import atomic
from shared.errors import SettingsError

log = logging.getLogger(__name__)

_CHECKS = 20  # looks at the held-out samples in a course, where it may stop early
_SAVES = 10
_HELD_OUT = 10  # one sample in so many
_BATCH = 512


_Best = tuple[float, dict[str, Tensor]]
"""Agreement on held-out samples, and the weights that had it."""


@dataclass(frozen=True, slots=True)
class Passed:
    """How a course went.

    Attributes:
        steps: taken.
        agreement: the last student's best on held-out samples; None where none were held out.
    """

    steps: int
    agreement: float | None


class Course:
    """The students, what they learn and how far they are.

    Args:
        students: trained in place; of one kind.
        pool: what is learnt.
        allowed: what each of them may see.
        settings: temperature, weights, batch, seed, patience.
        steps: of the course.
        learning_rate: peak of the one-cycle schedule.
    """

    def __init__(
        self,
        students: Sequence[nn.Module],
        pool: Pool,
        *,
        allowed: list[Source],
        settings: TrainingSettings,
        steps: int,
        learning_rate: float,
    ) -> None:
        self._pool, self._settings, self._steps = pool, settings, steps
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._held: list[Tensor] = []
        self._allowed = self._hold_out(allowed) if settings.learning.patience else allowed
        self._students = list(students)
        self._maps = self._embedding_maps()
        self._group = Group(students)
        parameters = [*self._group.parameters, *([self._maps] if self._maps is not None else [])]
        self._optimiser = torch.optim.AdamW(
            parameters, lr=learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser, max_lr=learning_rate, total_steps=steps + 1
        )
        self._step, self._worse = 0, 0
        self._best: list[_Best] = []
        self._best_mean = -1.0

    def run(self, on_step: Callable[[int, float], None], *, file: Path | None = None) -> Passed:
        """Take the steps, from where `file` says an earlier process was; the students end in evaluation mode.

        Args:
            on_step: told the steps taken and the loss, every hundredth of the way.
            file: where it is saved on the way, so that a killed process loses a tenth of it; None: nowhere.

        Raises:
            ModelError: the loss is not finite.
            StorageFull: the disk took no more.
        """
        if file is not None and file.exists():
            self._load(file)
        report_every, check_every = max(1, self._steps // 100), max(1, self._steps // _CHECKS)
        save_every = max(DRAWN_AHEAD, self._steps // _SAVES // DRAWN_AHEAD * DRAWN_AHEAD)
        drawn: Tensor | None = None
        while self._step < self._steps:
            if drawn is None or self._step % DRAWN_AHEAD == 0:
                drawn = pools.draw(self._allowed, self._pool, self._settings, self._generator)
            loss = self._take(drawn[self._step % DRAWN_AHEAD])
            self._step += 1
            if self._step % report_every == 0 or self._step == self._steps:
                on_step(self._step, self._finite(loss))
            if self._held and self._step % check_every == 0 and self._is_enough():
                break
            if file is not None and self._step % save_every == 0:
                self._save(file)
        if self._best:
            self._group.load([state for _, state in self._best])
        self._group.release()
        return Passed(self._step, self._best[-1][0] if self._best else None)

    def _take(self, chosen: Tensor) -> LossParts:
        """One step over views int64 [students, batch]."""
        pool, settings = self._pool, self._settings
        logits, embeddings = self._group.forward(pool.views[chosen])
        loss = distillation_loss(
            logits,
            pool.teacher_logits[chosen],
            pool.labels[chosen % len(pool.labels)],
            temperature=settings.temperature,
            alpha=settings.alpha,
            beta=settings.beta,
        )
        if self._maps is not None and pool.embeddings is not None:
            mapped = torch.einsum("mbs,mst->mbt", embeddings.flatten(2), self._maps)
            loss = with_feature(loss, mapped, pool.embeddings[chosen], weight=settings.learning.feature_weight)
        self._optimiser.zero_grad()
        # Each student gets the gradient of its own mean: the mean over all of them is that divided by their number.
        (loss.total * len(self._students)).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._optimiser.step()
        self._schedule.step()
        return loss

    def _finite(self, loss: LossParts) -> float:
        value = loss.total.item()
        if not torch.isfinite(loss.total):
            raise ModelError(
                f"the loss is {value} after step {self._step} (KL {loss.kl.item():.3g}, cross-entropy "
                f"{loss.ce.item():.3g}): lower learning_rate (now {self._settings.learning_rate:g}), or look for NaN "
                "and huge values in the samples"
            )
        return value

    def _embedding_maps(self) -> Tensor | None:
        """One linear map from its embedding to the teacher's for each student, float32 [students, E_s, E_t]."""
        if not self._settings.learning.feature_weight:
            return None
        if self._pool.embeddings is None:
            raise SettingsError(
                "feature_weight needs a teacher that gives an embedding: give its ONNX file the output 'embedding', "
                "let its module return (logits, embedding), or set feature_weight = 0"
            )
        with torch.no_grad():
            width = self._students[0].eval()(self._pool.views[:2])[1].flatten(1).shape[1]
        wanted = self._pool.embeddings.shape[1]
        spread = torch.randn((len(self._students), width, wanted), generator=self._generator) / width**0.5
        return torch.nn.Parameter(spread)

    def _hold_out(self, allowed: list[Source]) -> list[Source]:
        """Keep a tenth of the base data, and of the uploads that each student may see, for the checks.

        Not what a fold's student does not see: it is judged on that, and must not be chosen by it.
        """
        base = allowed[0][0]
        order = torch.randperm(len(base), generator=torch.Generator().manual_seed(self._settings.seed))
        held, learnt = base[order[: len(base) // _HELD_OUT]], base[order[len(base) // _HELD_OUT :].sort().values]
        if not len(held):
            raise SettingsError(f"patience needs at least {_HELD_OUT} base samples: add some, or set patience = 0")
        parts = []
        for _, seen in allowed:
            mixed = seen[torch.randperm(len(seen), generator=torch.Generator().manual_seed(self._settings.seed))]
            parts.append((mixed[: len(seen) // _HELD_OUT], mixed[len(seen) // _HELD_OUT :].sort().values))
        self._held = [torch.cat([held, mine]) for mine, _ in parts]
        return [(learnt, rest) for _, rest in parts]

    def _is_enough(self) -> bool:
        """Whether the held-out agreement has not risen for as long as `patience` allows.

        Each student is kept at its own best, by its own held-out samples: those of the others may be what it is judged
        on. When to stop is for all of them together, by the mean.
        """
        states = self._group.states()
        found = [self._agreement(*each) for each in zip(self._students, self._held, strict=True)]
        for student in self._students:
            student.train()
        now: list[_Best] = list(zip(found, states, strict=True))
        before = self._best or now
        self._best = [new if new[0] > old[0] + 1e-9 else old for new, old in zip(now, before, strict=True)]
        mean = sum(found) / len(found)
        self._worse = 0 if mean > self._best_mean + 1e-9 else self._worse + 1
        self._best_mean = max(self._best_mean, mean)
        return self._worse >= self._settings.learning.patience

    @torch.no_grad()
    def _agreement(self, student: nn.Module, held: Tensor) -> float:
        student.eval()
        answers = torch.cat([student(self._pool.views[part])[0].argmax(1) for part in torch.split(held, _BATCH)])
        return float((answers == self._pool.teacher_logits[held].argmax(1)).float().mean())

    def _save(self, file: Path) -> None:
        state = {
            "step": self._step,
            "worse": self._worse,
            "best": self._best,
            "best_mean": self._best_mean,
            "batch": self._settings.batch,
            "students": self._group.states(),
            "maps": self._maps,
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
            "drawing": self._generator.get_state(),
            "chance": torch.get_rng_state(),
        }
        with atomic.replacing(file) as target:
            torch.save(state, target)

    def _load(self, file: Path) -> None:
        # Only tensors, numbers and lists: nothing in the file is run.
        state: dict[str, Any] = torch.load(file, weights_only=True)
        if state["batch"] != self._settings.batch:
            return  # left by a run that then took a smaller batch
        self._group.load(state["students"])
        if self._maps is not None:
            with torch.no_grad():
                self._maps.copy_(state["maps"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        self._generator.set_state(state["drawing"])
        torch.set_rng_state(state["chance"])
        self._step, self._worse = state["step"], state["worse"]
        self._best, self._best_mean = state["best"], state["best_mean"]
        log.info("training goes on at step %d of %d", self._step, self._steps)
