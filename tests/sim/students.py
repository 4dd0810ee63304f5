"""Small networks of the kinds that pruning and quantization meet."""

import torch
from torch import nn


class Residual(nn.Module):
    """Convolution, residual block, strided convolution, linear head, over uint8 [N, 8, 8]; as if trained."""

    def __init__(self, width: int = 16, *, classes: int = 4) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.one, self.one_norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.two, self.two_norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.last, self.last_norm = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width)
        self.head = nn.Linear(2 * width, classes)
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias, std=0.3)
                nn.init.normal_(layer.running_mean, std=0.2)
                nn.init.uniform_(layer.running_var, 0.3, 1.0)
        self.eval()

    def forward(self, x):
        x = (x.float() * 0.125 - 1.0).unsqueeze(1)
        x = torch.relu(self.stem_norm(self.stem(x)))
        inner = torch.relu(self.one_norm(self.one(x)))
        x = torch.relu(self.two_norm(self.two(inner)) + x)
        embedding = torch.relu(self.last_norm(self.last(x))).mean((2, 3))
        return self.head(embedding), embedding


class Bare(nn.Module):
    """One linear layer: there is nothing before the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 4)

    def forward(self, x):
        flat = x.flatten(1).float()
        return self.head(flat), flat


class Mixed(nn.Module):
    """Multiplies its channels by a matrix that is in no layer, which no cut can follow."""

    mix: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 32, 3, padding=1), nn.Linear(16, 4)
        self.register_buffer("mix", torch.randn(32, 16))

    def forward(self, x):
        embedding = torch.relu(self.stem(x.float().unsqueeze(1))).mean((2, 3)) @ self.mix
        return self.head(embedding), embedding


class Dropping(nn.Module):
    """Draws chance in training, and at its making: 8×8 digits."""

    def __init__(self, task):
        super().__init__()
        self.body, self.head = nn.Linear(64, 32), nn.Linear(32, len(task.labels))
        self.dropout = nn.Dropout(0.3)

    def forward(self, x):
        embedding = torch.relu(self.body(x.flatten(1).float() * 0.1 - 0.5))
        return self.head(self.dropout(embedding)), embedding
