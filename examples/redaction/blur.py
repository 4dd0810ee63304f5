"""A redaction hook that lowers the resolution: shapes stay, faces and number plates go.

    [tasks.door]
    redact = "blur.py:blur"

The teacher sees what the cloud sees: check that it still answers well, or it teaches the student the wrong thing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_agent.redaction import Departing

BLOCK = 4


def blur(sample: Departing) -> NDArray[np.uint8]:
    """Replace each block of an image [H, W] or [H, W, C] by its mean."""
    image = sample.tensor
    height, width = image.shape[0] // BLOCK * BLOCK, image.shape[1] // BLOCK * BLOCK
    inside = image[:height, :width].astype(np.float32)
    blocks = inside.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, -1)
    coarse = blocks.mean(axis=(1, 3)).round().astype(image.dtype)
    result = np.zeros_like(image)  # a rim that fills no whole block is left black
    result[:height, :width] = coarse.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1).reshape(inside.shape)
    return result
