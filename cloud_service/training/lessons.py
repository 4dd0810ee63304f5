"""Lessons from labels: the course of steps in which a teacher is trained, that can be cut off and taken up again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cloud_service.errors import ModelError
from cloud_service.tasks.learning import TeachSettings
from cloud_service.training.progress import Progress, Step
from shared import atomic

log = logging.getLogger(__name__)

Augment = Callable[[Tensor, torch.Generator], Tensor]
_CHECKS, _SAVES, _AT_ONCE = 20, 10, 256


@dataclass(frozen=True, slots=True)
class Part:
    """Samples float32 [N, *shape] and labels int64 [N], `count` of which are drawn for each step."""

    x: Tensor
    y: Tensor
    count: int


@torch.no_grad()
def share_right(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of samples that a network, in evaluation mode, answers with their label."""
    network.eval()
    answers = torch.cat([_logits(network(part)).argmax(1) for part in torch.split(x, _AT_ONCE)])
    return float((answers == y).float().mean())


class Lessons:
    """A course of training on labels: cross-entropy, smoothed, AdamW, one cycle; can be taken up again.

    Args:
        network: trained in place; raw samples to logits, or (logits, embedding).
        parts: what each step draws from.
        settings: steps, rates, smoothing, patience.
        augment: changes the drawn samples; None: they stay.
        slow: names of `body`'s parameters that learn at `body_rate`.
        body: the part of the network that `slow` is of; None: the network.
        held: samples and labels that choose the weights that are kept; None: the last are.

    Attributes:
        best: accuracy on `held` of the weights that are kept.
    """

    def __init__(
        self,
        network: nn.Module,
        parts: Sequence[Part],
        *,
        settings: TeachSettings,
        seed: int,
        augment: Augment | None = None,
        slow: Sequence[str] = (),
        body: nn.Module | None = None,
        held: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self._network, self._parts, self._settings, self._augment, self._held = network, parts, settings, augment, held
        self._generator = torch.Generator().manual_seed(seed)
        known = dict((body or network).named_parameters())
        slowed = {id(known[name]) for name in slow if name in known}
        groups = [
            ([value for value in network.parameters() if id(value) not in slowed], settings.learning_rate),
            ([value for value in network.parameters() if id(value) in slowed],
             settings.learning_rate * settings.body_rate),
        ]  # fmt: skip
        learning = [(values, rate) for values, rate in groups if values and rate > 0.0]
        for values, rate in groups:
            for value in values:
                value.requires_grad_(rate > 0.0)
        self._optimiser = torch.optim.AdamW(
            [{"params": values, "lr": rate} for values, rate in learning], weight_decay=settings.weight_decay
        )
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser, max_lr=[rate for _, rate in learning], total_steps=settings.steps + 1
        )
        self._step, self._worse = 0, 0
        self.best: float | None = None
        self._kept: dict[str, Tensor] | None = None

    def run(self, progress: Progress, *, stage: str = "teach", file: Path | None = None) -> int:
        """Take the steps, from where `file` says an earlier process was; how many were taken.

        Raises:
            ModelError: the loss is not finite.
            StorageFull: the disk took no more.
        """
        total = self._settings.steps
        if file is not None and file.exists():
            self._load(file)
        self._mode()
        report_every, check_every = max(1, total // 50), max(1, total // _CHECKS)
        save_every = max(1, total // _SAVES)
        while self._step < total:
            loss = self._take()
            self._step += 1
            if self._step % report_every == 0 or self._step == total:
                progress(Step(stage=stage, done=self._step, total=total, message=f"loss {self._finite(loss):.3f}"))
            if self._held and (self._step % check_every == 0 or self._step == total) and self._is_enough(*self._held):
                break
            if file is not None and self._step % save_every == 0:
                self._save(file)
        if self._kept is not None:
            self._network.load_state_dict(self._kept)
        self._network.eval()
        return self._step

    def _take(self) -> Tensor:
        chosen = [torch.randint(len(part.x), (part.count,), generator=self._generator) for part in self._parts]
        x = torch.cat([part.x[index] for part, index in zip(self._parts, chosen, strict=True)])
        y = torch.cat([part.y[index] for part, index in zip(self._parts, chosen, strict=True)])
        changed = x if self._augment is None else self._augment(x, self._generator)
        logits = _logits(self._network(changed))
        loss = functional.cross_entropy(logits, y, label_smoothing=self._settings.smoothing)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._optimiser.step()
        self._schedule.step()
        return loss

    def _mode(self) -> None:
        """Everything learns but what stays as it came: its batch statistics stay, too."""
        self._network.train()
        for layer in self._network.modules():
            values = list(layer.parameters())
            if values and not any(value.requires_grad for value in values):
                layer.eval()

    def _finite(self, loss: Tensor) -> float:
        value = loss.item()
        if not np.isfinite(value):
            raise ModelError(
                f"the teacher's loss is {value} after step {self._step}: lower teach.learning_rate (now "
                f"{self._settings.learning_rate:g}), or look for NaN and huge values in the base data"
            )
        return value

    def _is_enough(self, x: Tensor, y: Tensor) -> bool:
        right = share_right(self._network, x, y)
        self._mode()
        if self.best is None or right > self.best:
            self.best, self._worse = right, 0
            self._kept = {name: value.detach().clone() for name, value in self._network.state_dict().items()}
        else:
            self._worse += 1
        return bool(self._settings.patience) and self._worse >= self._settings.patience

    def _save(self, file: Path) -> None:
        state = {
            "step": self._step, "worse": self._worse, "best": self.best, "kept": self._kept,
            "counts": [part.count for part in self._parts], "network": self._network.state_dict(),
            "optimiser": self._optimiser.state_dict(), "schedule": self._schedule.state_dict(),
            "drawing": self._generator.get_state(), "chance": torch.get_rng_state(),
        }  # fmt: skip
        with atomic.replacing(file) as target:
            torch.save(state, target)

    def _load(self, file: Path) -> None:
        # Only tensors, numbers and lists: nothing in the file is run.
        state: dict[str, Any] = torch.load(file, weights_only=True)
        if state["counts"] != [part.count for part in self._parts]:
            return  # left by a run that then took a smaller batch
        self._network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        self._generator.set_state(state["drawing"])
        torch.set_rng_state(state["chance"])
        self._step, self._worse, self.best, self._kept = state["step"], state["worse"], state["best"], state["kept"]
        log.info("teaching goes on at step %d of %d", self._step, self._settings.steps)


def _logits(given: Tensor | tuple[Tensor, ...]) -> Tensor:
    return given[0] if isinstance(given, tuple) else given
