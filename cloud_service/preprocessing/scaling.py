"""A sensor's values as a network wants them: a fixed range, or standardised for each channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.float32]


class Scale(nn.Module):
    """low..high becomes -1..1; raw samples of any shape and dtype to float32 of the same shape."""

    def __init__(self, *, low: float, high: float) -> None:
        super().__init__()
        self.factor, self.shift = 2.0 / (high - low), -(high + low) / (high - low)

    def forward(self, x: Tensor) -> Tensor:
        return x.float() * self.factor + self.shift


class Standardise(nn.Module):
    """(x - mean) / std for each channel of the last axis; raw samples [N, …, C] to float32 of the same shape.

    Mean and deviation are buffers, so that they are kept with the student's weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return (x.float() - self.mean) / self.std


def channel_statistics(x: NDArray[Any], *, channels: int) -> tuple[Floats, Floats]:
    """Mean and deviation of each channel over samples [N, …, C], or of all values where `channels` is 1.

    A channel that never changes has no deviation to divide by; it is given 1, and comes out as 0.
    """
    rows = x.reshape(-1, channels).astype(np.float64)
    mean, std = rows.mean(axis=0), rows.std(axis=0)
    std[std < 1e-6 * np.maximum(1.0, np.abs(mean))] = 1.0
    return mean.astype(np.float32), std.astype(np.float32)
