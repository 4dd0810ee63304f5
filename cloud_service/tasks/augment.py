"""Random changes of samples that leave their meaning alone; the teacher answers the changed sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

# Mild on purpose: strong augmentation hurts a network of a few kilobytes (docs/log.md).
_ROTATION_RAD = math.radians(8.0)
_SCALE = 0.1
_SHIFT_PIXELS = 0.5
_SHEAR = 0.1
_GAIN = 0.1


def digits(samples: Tensor, generator: torch.Generator) -> Tensor:
    """Slightly turned, scaled, moved, sheared and brightened 8×8 pictures.

    Args:
        samples: float32 [N, 8, 8], 0..16.
        generator: source of the randomness.

    Returns:
        float32 [N, 8, 8], whole numbers in 0..16, as the sensor would give them.
    """
    count, size = samples.shape[0], samples.shape[-1]

    def spread(limit: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2.0 - 1.0) * limit

    angle, shear = spread(_ROTATION_RAD), spread(_SHEAR)
    scale_x, scale_y = 1.0 + spread(_SCALE), 1.0 + spread(_SCALE)
    shift_x, shift_y = spread(2.0 * _SHIFT_PIXELS / size), spread(2.0 * _SHIFT_PIXELS / size)
    row_x = torch.stack([angle.cos() / scale_x, shear - angle.sin(), shift_x], dim=1)
    row_y = torch.stack([angle.sin(), angle.cos() / scale_y, shift_y], dim=1)
    grid = functional.affine_grid(torch.stack([row_x, row_y], dim=1), [count, 1, size, size], align_corners=False)
    moved = functional.grid_sample(samples.unsqueeze(1), grid, padding_mode="zeros", align_corners=False).squeeze(1)
    brightened = moved * (1.0 + spread(_GAIN))[:, None, None]
    return brightened.round().clamp(0.0, 16.0)
