"""Structured pruning: whole channels leave, through every layer that depends on them (torch-pruning)."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cloud_service.errors import ModelError
from cloud_service.tasks.compression import Importance, PruneSettings
from cloud_service.training.macs import COUNTED, count_macs
from shared.errors import SettingsError

log = logging.getLogger(__name__)

Cut = tuple[str, bool, list[int]]
"""A layer's name, whether its outputs (else inputs) were cut, and which channels."""

_HALVINGS = 7  # of the interval in which the ratio is sought: to within 1 %
_LARGEST_RATIO = 0.98


def prune(
    student: nn.Module,
    *,
    example: Tensor,
    settings: PruneSettings,
    fine_tune: Callable[[nn.Module, int], None],
    batches: Iterable[tuple[Tensor, Tensor]] = (),
) -> tuple[Cut, ...]:
    """Remove channels in place until `macs_left` holds, about the same share of every layer, in rounds alike.

    Raises:
        ModelError: nothing to prune, the target is out of reach, or the network cannot be traced.
        SettingsError: torch-pruning is not installed.
    """
    before = count_macs(student, example)
    some = list(batches)
    if settings.importance is Importance.TAYLOR and not some:
        raise ModelError("pruning by taylor needs labelled samples: give some, or set importance = 'magnitude'")
    _check_reach(student, example=example, settings=settings, batches=some, limit=before)
    cuts: list[Cut] = []
    for done in range(1, settings.rounds + 1):
        target = before * settings.macs_left ** (done / settings.rounds)
        ratios = _find_ratios(student, example=example, settings=settings, batches=some, target=target)
        if ratios is not None:
            cuts += _remove(student, ratios, example=example, settings=settings, batches=some, enough=target)
        if settings.fine_tune_steps:
            fine_tune(student, settings.fine_tune_steps)
        log.info("round %d of %d: %.0f %% of the multiply-accumulates are left", done, settings.rounds,
                 100 * count_macs(student, example) / before)  # fmt: skip
    return tuple(cuts)


def cut(student: nn.Module, cuts: Sequence[Cut], *, example: Tensor) -> None:
    """Repeat what was removed on a fresh student of the same kind, so that the pruned one's weights can be loaded.

    Raises:
        ModelError: the cuts are of another network.
    """
    import torch_pruning

    with _told(student):
        graph = torch_pruning.DependencyGraph().build_dependency(student, example_inputs=example, verbose=False)
        graph.load_pruning_history([(name, of_outputs, list(channels)) for name, of_outputs, channels in cuts])


def _check_reach(
    student: nn.Module, *, example: Tensor, settings: PruneSettings, batches: list[tuple[Tensor, Tensor]], limit: int
) -> None:
    """See on a copy, before hours are spent, that the target can be met."""
    trial = copy.deepcopy(student)
    _remove(trial, (0.0, _LARGEST_RATIO), example=example, settings=settings, batches=batches)
    least = count_macs(trial, example) / limit
    if least == 1.0:
        raise ModelError(
            f"nothing to prune in {type(student).__name__}: no layer but the last has more than "
            f"{settings.round_to} channels that {settings.importance.value} can rank: lower round_to"
        )
    if least > settings.macs_left:
        raise ModelError(
            f"{type(student).__name__} can be pruned to {least:.0%} of its multiply-accumulates, not to "
            f"{settings.macs_left:.0%}: raise macs_left or lower round_to"
        )


def _find_ratios(
    student: nn.Module, *, example: Tensor, settings: PruneSettings, batches: list[tuple[Tensor, Tensor]], target: float
) -> tuple[float, float] | None:
    """Two shares of channels within 1 %: what the first leaves is too much, the second meets the target; None: met."""
    if count_macs(student, example) <= target:
        return None
    low, high = 0.0, _LARGEST_RATIO
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        trial = copy.deepcopy(student)
        _remove(trial, (0.0, middle), example=example, settings=settings, batches=batches)
        if count_macs(trial, example) <= target:
            high = middle
        else:
            low = middle
    return low, high


def _remove(
    student: nn.Module,
    ratios: tuple[float, float],
    *,
    example: Tensor,
    settings: PruneSettings,
    batches: list[tuple[Tensor, Tensor]],
    enough: float = 0.0,
) -> list[Cut]:
    """Remove a share of every layer's channels, in place, the least important ones.

    The first ratio from all layers alike; then, layer by layer, what the second takes beyond it, and no further once
    `enough` multiply-accumulates are left: the channels of narrow layers come in few blocks, and the last block of all
    of them at once would go far beyond.
    """
    pruner_class, importance = _tools(settings.importance)
    width = _answer(student, example).shape[-1]
    with _told(student):
        if settings.importance is Importance.TAYLOR:
            _take_gradients(student, batches)
        pruner = pruner_class(
            student.eval(),
            example_inputs=example,
            importance=importance,
            pruning_ratio=ratios[1],
            iterative_steps=len(ratios),
            iterative_pruning_ratio_scheduler=lambda *_: [0.0, *ratios],
            ignored_layers=find_last_layers(student, example),
            round_to=settings.round_to,
        )
        if ratios[0] > 0.0:
            pruner.step()
        pruner.current_step = 1
        for group in pruner.step(interactive=True):
            group.prune()
            if count_macs(student, example) <= enough:
                break
        student.zero_grad(set_to_none=True)
        if _answer(student, example).shape[-1] != width:
            raise RuntimeError("the logits lost a class")
    return [(name, of_outputs, [int(i) for i in channels]) for name, of_outputs, channels in pruner.pruning_history()]


def _tools(importance: Importance) -> tuple[Any, Any]:
    """torch-pruning's pruner, with a rounding that keeps a block of every layer, and the ranking asked for."""
    try:
        import torch_pruning
    except ImportError as err:
        raise SettingsError("structured pruning needs torch-pruning: pip install 'edgeloop[cloud]'") from err

    class Pruner(torch_pruning.BasePruner):  # type: ignore[misc]  # it has no types
        def _round_to(self, n_pruned: int, current_channels: int, round_to: int) -> int:
            """To the nearest multiple, one at least: its own rounds down to none, and then leaves the layer whole."""
            kept = max(round_to, round((current_channels - n_pruned) / round_to) * round_to)
            return max(current_channels - kept, 0)

    rankings = {
        Importance.MAGNITUDE: torch_pruning.importance.GroupMagnitudeImportance,
        Importance.BN_SCALE: torch_pruning.importance.BNScaleImportance,
        Importance.TAYLOR: torch_pruning.importance.GroupTaylorImportance,
    }
    return Pruner, rankings[importance]()


def find_last_layers(student: nn.Module, example: Tensor) -> list[nn.Module]:
    """The layers that the logits come out of with no other product or convolution between; they keep their outputs."""
    made_by: dict[Any, nn.Module] = {}

    def note(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        made_by[output.grad_fn] = layer

    handles = [layer.register_forward_hook(note) for layer in student.modules() if isinstance(layer, COUNTED)]
    try:
        with torch.enable_grad():
            logits = student.eval()(example)[0]
    finally:
        for handle in handles:
            handle.remove()
    found: list[nn.Module] = []
    seen, waiting = set(), [logits.grad_fn]
    while waiting:
        step = waiting.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        if step in made_by:
            found.append(made_by[step])
        else:
            waiting += [before for before, _ in step.next_functions]
    return found


def _take_gradients(student: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    """Leave the mean loss's gradients in the parameters."""
    student.eval().zero_grad(set_to_none=True)
    with torch.enable_grad():
        for x, y in batches:
            loss = functional.cross_entropy(student(x)[0], y) / len(batches)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped


@torch.no_grad()
def _answer(student: nn.Module, example: Tensor) -> Tensor:
    logits: Tensor = student.eval()(example)[0]
    return logits


@contextmanager
def _told(student: nn.Module) -> Iterator[None]:
    """What goes wrong while a network is traced and cut, as one error with a remedy."""
    try:
        with warnings.catch_warnings(), torch.enable_grad():  # it follows the gradients
            warnings.simplefilter("ignore")  # torch-pruning warns of every parameter that belongs to no layer
            yield
    # torch-pruning has no errors of its own: a network that it cannot follow ends in any of Python's.
    except Exception as err:
        raise ModelError(
            f"channels of {type(student).__name__} cannot be pruned ({type(err).__name__}: {err}): "
            "set method = 'unstructured', or take another student"
        ) from err
