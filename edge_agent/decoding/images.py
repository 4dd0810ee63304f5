"""JPEG and PNG to the pixels that a task takes: decoded, resized, nothing else.

Only this module knows Pillow (extra `images`).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from shared.codec import Array
from shared.errors import SampleError, SettingsError
from shared.manifest import TensorSpec

MAX_BYTES = 16 * 1024**2
# 40 million pixels are 120 MB while they are decoded; a JPEG is decoded at a fraction of its size where that suffices.
MAX_PIXELS = 40_000_000

_MODES = {None: "L", 1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True, slots=True)
class ImageSize:
    """What an image must become; `channels` is None for [H, W]."""

    height: int
    width: int
    channels: int | None


def image_size(spec: TensorSpec) -> ImageSize:
    """What an image must become for this task.

    Raises:
        SampleError: the task takes no image: not [H, W], nor [H, W, C] with 1, 3 or 4 channels.
    """
    match spec.shape:
        case (height, width):
            return ImageSize(height, width, None)
        case (height, width, 1 | 3 | 4 as channels):
            return ImageSize(height, width, channels)
    raise SampleError(f"an image fits [H, W] or [H, W, 1, 3 or 4]; the task takes {spec.dtype} {list(spec.shape)}")


def decode(body: bytes, spec: TensorSpec) -> Array:
    """uint8 pixels in the shape of `spec`: the whole image, its sides stretched to the task's; grey, RGB or RGBA.

    Raises:
        SampleError: no whole JPEG or PNG of 8 bits, one with too many pixels, or the task takes no image.
        SettingsError: Pillow is not installed.
    """
    wanted = image_size(spec)
    pillow = _pillow()
    try:
        return _pixels(pillow, body, wanted).reshape(spec.shape)
    except SampleError:
        raise
    except Exception as err:  # Pillow raises a dozen types for damaged files; all mean that this is no image
        raise SampleError(f"{len(body):,} bytes are no whole JPEG or PNG: {err}") from err


def _pixels(pillow: ModuleType, body: bytes, wanted: ImageSize) -> Array:
    mode, size = _MODES[wanted.channels], (wanted.width, wanted.height)
    with pillow.open(io.BytesIO(body), formats=("JPEG", "PNG")) as image:
        if image.width * image.height > MAX_PIXELS:
            raise SampleError(f"an image of {image.width}×{image.height}; at most {MAX_PIXELS:,} pixels are decoded")
        if image.mode.startswith(("I", "F")):
            raise SampleError("an image of more than 8 bits a channel: send it as npy or raw")
        # A JPEG decodes to a half, a quarter or an eighth of its size for less; twice the wanted size keeps it sharp.
        image.draft("L" if mode == "L" else None, (2 * wanted.width, 2 * wanted.height))
        picture = (image.convert("RGBA") if image.mode == "P" else image).convert(mode)
        if picture.size != size:
            picture = picture.resize(size, pillow.Resampling.BILINEAR, reducing_gap=2.0)
        return np.asarray(picture)


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError as err:
        raise SettingsError("an image needs Pillow: pip install 'edgeloop[images]'") from err
    return Image
