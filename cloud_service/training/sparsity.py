"""Unstructured pruning: the smallest weights of the whole network become zero and stay zero."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cloud_service.errors import ModelError
from cloud_service.tasks.compression import PruneSettings
from cloud_service.training.macs import COUNTED, weight_of


class _Masked(nn.Module):
    """Multiplies by zeros and ones, so that neither a step nor weight decay brings a pruned weight back."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def prune(student: nn.Module, *, settings: PruneSettings, fine_tune: Callable[[nn.Module, int], None]) -> None:
    """Zero the smallest weights of all products and convolutions together, in rounds, in place.

    Raises:
        ModelError: the student has no product or convolution, or its weights are not finite.
    """
    layers = _layers(student)
    if not layers:
        raise ModelError(f"nothing to prune: {type(student).__name__} has neither convolution nor linear layer")
    try:
        for done in range(1, settings.rounds + 1):
            # Cubic: much is taken while much is left over, little towards the end.
            left = settings.weights_left + (1.0 - settings.weights_left) * (1.0 - done / settings.rounds) ** 3
            _unmask(layers)
            _mask(layers, weights_left=left)
            if settings.fine_tune_steps:
                fine_tune(student, settings.fine_tune_steps)
    finally:
        _unmask(layers)
    student.eval()


def threshold(weights: list[Tensor], *, weights_left: float) -> float:
    """The magnitude at or below which weights are pruned, so that this share of all of them is left.

    Memory order does not matter: weights may be channels-last.
    """
    magnitudes = torch.cat([weight.detach().abs().reshape(-1) for weight in weights])
    pruned = magnitudes.numel() - round(weights_left * magnitudes.numel())
    return float(torch.kthvalue(magnitudes, pruned).values) if pruned else -1.0


def share_left(network: nn.Module) -> float:
    """Share of the weights of products and convolutions that are not zero; 1 without any."""
    weights = [weight_of(layer).detach() for layer in _layers(network)]
    total = sum(weight.numel() for weight in weights)
    return sum(int(torch.count_nonzero(weight)) for weight in weights) / total if total else 1.0


def _layers(network: nn.Module) -> list[nn.Module]:
    return [layer for layer in network.modules() if isinstance(layer, COUNTED)]


def _mask(layers: list[nn.Module], *, weights_left: float) -> None:
    weights = [weight_of(layer).detach().contiguous() for layer in layers]
    if not all(bool(torch.isfinite(weight).all()) for weight in weights):
        raise ModelError("the student's weights are not finite: its training has failed, lower learning_rate")
    bound = threshold(weights, weights_left=weights_left)
    for layer, weight in zip(layers, weights, strict=True):
        parametrize.register_parametrization(layer, "weight", _Masked((weight.abs() > bound).to(weight.dtype)))


def _unmask(layers: list[nn.Module]) -> None:
    for layer in layers:
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
