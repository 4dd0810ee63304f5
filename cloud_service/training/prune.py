"""Pruning: a trained student loses what matters least, in rounds, and is trained again after each.

Structured pruning follows the dependency graph of Fang et al. 2023, "DepGraph: Towards any structural pruning"; what
stays is a smaller dense network. Unstructured pruning is global by magnitude (Han et al. 2015) on the cubic schedule of
Zhu & Gupta 2017, "To prune, or not to prune"; its zeros shrink the compressed download, never the latency.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from cloud_service.tasks.compression import Method, PruneSettings
from cloud_service.training import sparsity, structure
from cloud_service.training.macs import count_macs, count_parameters

log = logging.getLogger(__name__)

FineTune = Callable[[nn.Module, int], None]
"""Trains a network in place for so many steps."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """A pruned student and what it came to.

    Attributes:
        student: in evaluation mode; the one given, changed in place.
        macs_before: multiply-accumulates for one sample.
        macs_after: the same of the pruned student; zeros count, as they do on the device.
        parameters_before: values before.
        parameters_after: values after.
        weights_left: share of the pruned student's weights that are not zero.
        cuts: what structured pruning removed, for `structure.cut` on a fresh student of the same kind.
    """

    student: nn.Module
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    weights_left: float
    cuts: tuple[structure.Cut, ...] = ()


def prune(
    student: nn.Module,
    *,
    example: Tensor,
    settings: PruneSettings,
    fine_tune: FineTune,
    batches: Iterable[tuple[Tensor, Tensor]] = (),
) -> Pruned:
    """Prune a student in place.

    Args:
        student: raw samples [N, *shape] → (logits [N, C], embedding [N, E]). The logits' width stays, the embedding's
            may shrink.
        example: raw samples [2 or more, *shape] to trace the network with; their values do not matter.
        settings: what, how much, in how many rounds.
        fine_tune: trains the student after each round.
        batches: (raw samples [N, *shape], labels int64 [N]) whose gradients rank the channels for `taylor`.

    Raises:
        ModelError: there is nothing to prune, the target is out of reach, or the network cannot be traced.
    """
    macs_before, parameters_before = count_macs(student, example), count_parameters(student)
    cuts: tuple[structure.Cut, ...] = ()
    if settings.method is Method.STRUCTURED:
        cuts = structure.prune(student, example=example, settings=settings, fine_tune=fine_tune, batches=batches)
    else:
        sparsity.prune(student, settings=settings, fine_tune=fine_tune)
    pruned = Pruned(
        student=student.eval(),
        macs_before=macs_before,
        macs_after=count_macs(student, example),
        parameters_before=parameters_before,
        parameters_after=count_parameters(student),
        weights_left=sparsity.share_left(student),
        cuts=cuts,
    )
    log.info(
        "pruned: %d to %d multiply-accumulates, %d to %d parameters, %.0f %% of the weights are not zero",
        pruned.macs_before, pruned.macs_after, pruned.parameters_before, pruned.parameters_after,
        100 * pruned.weights_left,
    )  # fmt: skip
    return pruned
