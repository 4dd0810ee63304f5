"""Counts what a network costs: multiply-accumulates of its products and convolutions, and parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
"""The layers that pruning and quantization are about."""


@torch.no_grad()
def count_macs(network: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates for one sample; `example` is a batch [N, *shape] of any content.

    An output value of a convolution takes as many as its kernel has weights; of a linear layer, as it has inputs.
    Biases, normalisation and activations are not counted.
    """
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        weight = weight_of(layer)
        if isinstance(layer, nn.Linear):
            total += output.numel() * weight.shape[1]
        elif isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            total += inputs[0].numel() * weight[0].numel()
        else:
            total += output.numel() * weight[0].numel()

    handles = [layer.register_forward_hook(count) for layer in network.modules() if isinstance(layer, COUNTED)]
    was_training = network.training
    try:
        network.eval()(example)
    finally:
        network.train(was_training)
        for handle in handles:
            handle.remove()
    return total // len(example)


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of one of the `COUNTED` layers."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def count_parameters(network: nn.Module) -> int:
    """Trainable values of a network."""
    return sum(parameter.numel() for parameter in network.parameters())
