"""Small networks of our own: each takes preprocessed samples and gives an embedding; plain ReLU throughout, for int8.

DS-CNN follows Zhang et al. 2017 (arXiv:1711.07128), ResNet8 the image network of MLPerf Tiny (Banbury et al. 2021),
both with global average pooling, so that any input size will do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

BLOCK = 8


class Body(nn.Module):
    """Layers, then the mean over all places: [N, channels, …] to an embedding [N, features]."""

    def __init__(self, layers: nn.Module, *, features: int, axes: int) -> None:
        super().__init__()
        self.layers, self.features, self.axes = layers, features, axes

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)
        return found.mean(dim=tuple(range(2, 2 + self.axes)))


class Residual(nn.Module):
    """relu(x' + conv(relu(conv(x)))), batch-normalised; x' is a 1×1 convolution of x where the shape changes."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.first = _conv2d(inputs, outputs, stride=stride)
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(self.first(x)) + self.shortcut(x))


def resnet8(channels: int, width: float) -> Body:
    """Three residual blocks of 16, 32 and 64 channels."""
    sizes = [in_blocks(width * size) for size in (16, 32, 64)]
    layers = nn.Sequential(
        _conv2d(channels, sizes[0]),
        Residual(sizes[0], sizes[0], stride=1),
        Residual(sizes[0], sizes[1], stride=2),
        Residual(sizes[1], sizes[2], stride=2),
    )
    return Body(layers, features=sizes[2], axes=2)


def ds_cnn(channels: int, width: float) -> Body:
    """A 5×5 convolution, then four depthwise separable ones of 64 channels."""
    size = in_blocks(width * 64)
    layers = nn.Sequential(_conv2d(channels, size, kernel=5, stride=2), *(_separable2d(size, size) for _ in range(4)))
    return Body(layers, features=size, axes=2)


def cnn1d(channels: int, width: float) -> Body:
    """Over a window's time: a convolution of 7 steps, then three depthwise separable ones of 5, to 64 channels."""
    first, second = in_blocks(width * 32), in_blocks(width * 64)
    layers = nn.Sequential(
        nn.Conv1d(channels, first, 7, padding=3, bias=False),
        nn.BatchNorm1d(first),
        nn.ReLU(),
        _separable1d(first, second),
        _separable1d(second, second),
        _separable1d(second, second),
    )
    return Body(layers, features=second, axes=1)


@dataclass(frozen=True, slots=True)
class OwnNetwork:
    """A network by name.

    Attributes:
        make: called with (input channels, width).
        axes: of its input beside sample and channels: 1 time, 2 a picture or a map of frames and bands.
        about: for people.
    """

    make: Callable[[int, float], Body]
    axes: int
    about: str


OWN = {
    "resnet8": OwnNetwork(resnet8, 2, "small pictures; 16-32-64 channels, three residual blocks"),
    "ds-cnn": OwnNetwork(ds_cnn, 2, "log-mel sound and small pictures; depthwise separable"),
    "cnn1d": OwnNetwork(cnn1d, 1, "windows of sensor values; depthwise separable over time"),
}


def in_blocks(channels: float) -> int:
    """The nearest multiple of 8, at least 8: onnxruntime computes channels in blocks of it."""
    return max(BLOCK, round(channels / BLOCK) * BLOCK)


def _conv2d(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def _separable2d(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def _separable1d(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(inputs, inputs, 5, stride=2, padding=2, groups=inputs, bias=False),
        nn.BatchNorm1d(inputs),
        nn.ReLU(),
        nn.Conv1d(inputs, outputs, 1, bias=False),
        nn.BatchNorm1d(outputs),
        nn.ReLU(),
    )
