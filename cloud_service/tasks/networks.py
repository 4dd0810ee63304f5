"""Networks that ship with edgeloop: a tiny student for small pictures, and the demo's teacher."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cloud_service.tasks.task import TaskDefinition


class TinyMlp(nn.Module):
    """Normalise → linear → ReLU → linear, for raw samples of a small range such as 0..16.

    At 8×8, 10 labels and the default width the int8 bundle's model.onnx stays under 8 KB.
    """

    def __init__(self, task: TaskDefinition, *, hidden: int = 72, half_range: float = 8.0) -> None:
        super().__init__()
        self.half_range = half_range
        self.hidden = nn.Linear(math.prod(task.input_shape), hidden)
        self.head = nn.Linear(hidden, len(task.labels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Raw samples [N, *shape] of any dtype to (logits [N, C], embedding [N, hidden])."""
        normalised = x.flatten(1).float() * (1.0 / self.half_range) - 1.0
        embedding = torch.relu(self.hidden(normalised))
        return self.head(embedding), embedding


class SmallCnn(nn.Module):
    """Four 3×3 convolutions with batch normalisation, then two linear layers: a teacher for 8×8 pictures."""

    def __init__(self, *, classes: int, channels: int = 16, width: int = 128, dropout: float = 0.3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(1, channels),
            *_block(channels, channels),
            nn.MaxPool2d(2),
            *_block(channels, 2 * channels),
            *_block(2 * channels, 2 * channels),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(2 * channels * 16, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Raw pictures [N, 8, 8], 0..16, of any dtype to logits [N, classes]."""
        logits: Tensor = self.features((x.float() * 0.125 - 1.0).unsqueeze(1))
        return logits


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
