"""How a sample is shown to a person: as a picture, as curves over time, or, where it is neither, as a link."""

from __future__ import annotations

import math
import struct
import zlib
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from shared.codec import Array

# More curves than this are a picture to the eye (a spectrogram, say).
MAX_CHANNELS = 16
# A picture is enlarged while its shorter side has no more pixels than this: nobody reads a digit of 8×8.
_READABLE = 128
# A picture without a brighter pixel than this is brightened.
_DARK = 64
_SHADES = " .:-=+*#%@"


class Kind(StrEnum):
    """How a sample is shown; also the name of the field that holds it in a labelling task."""

    IMAGE = "image"
    SERIES = "series"
    LINK = "link"


def kind_of(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Kind:
    """How a tensor of this shape and type is shown.

    uint8 [H, W], [H, W, 1 or 3] and [1 or 3, H, W] are pictures. Anything else with one axis is a curve, with two
    axes curves along the longer one; of more than `MAX_CHANNELS` curves it is a picture, too.
    """
    if 0 in shape:
        return Kind.LINK
    if len(shape) == 1:
        return Kind.SERIES
    if len(shape) == 2:
        return Kind.IMAGE if dtype == np.uint8 or min(shape) > MAX_CHANNELS else Kind.SERIES
    if len(shape) == 3 and dtype == np.uint8 and (shape[2] in (1, 3) or shape[0] in (1, 3)):
        return Kind.IMAGE
    return Kind.LINK


def picture(tensor: Array) -> NDArray[np.uint8]:
    """A picture for eyes, [H, W] or [H, W, 3].

    What is not uint8 is spread from black (least) to white (most). What is so dark that nobody would see a thing, such
    as an image of the grey levels 0 to 16, is brightened.

    Raises:
        ValueError: the tensor is not a picture.
    """
    if kind_of(tensor.shape, tensor.dtype) is not Kind.IMAGE:
        raise ValueError(f"a tensor of shape {tensor.shape} and type {tensor.dtype} is not a picture")
    if tensor.dtype != np.uint8:
        return _spread(tensor)
    image = tensor if tensor.ndim == 2 or tensor.shape[2] in (1, 3) else np.moveaxis(tensor, 0, 2)
    grey = image[:, :, 0] if image.shape[2:] == (1,) else image
    brightest = int(grey.max())
    return grey * np.uint8(255 // brightest) if 0 < brightest < _DARK else grey


def enlarged(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture, each pixel a square where it is small."""
    factor = max(1, _READABLE // min(image.shape[:2]))
    return np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)


def png(image: NDArray[np.uint8]) -> bytes:
    """A picture, [H, W] or [H, W, 3], as PNG (ISO/IEC 15948): 8 bits, no filter, no interlace."""
    height, width = image.shape[:2]
    colour = 0 if image.ndim == 2 else 2
    rows = np.ascontiguousarray(image).reshape(height, -1)
    # Each row is preceded by the number of its filter, 0.
    filtered = np.hstack([np.zeros((height, 1), np.uint8), rows]).tobytes()
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)),
            _chunk(b"IDAT", zlib.compress(filtered, 6)),
            _chunk(b"IEND", b""),
        )
    )


def columns(tensor: Array) -> dict[str, list[float | None]]:
    """Curves by name: `step`, then `c0`, `c1`, …; what is no finite number is None, a gap.

    Raises:
        ValueError: the tensor has more than two axes.
    """
    if tensor.ndim not in (1, 2):
        raise ValueError(f"a tensor of shape {tensor.shape} has no curves")
    table = tensor.reshape(len(tensor), -1)
    if tensor.ndim == 2 and table.shape[1] > table.shape[0]:
        table = table.T
    named: dict[str, list[float | None]] = {"step": [float(step) for step in range(len(table))]}
    for number, curve in enumerate(table.T):
        named[f"c{number}"] = [float(f"{value:.6g}") if math.isfinite(value) else None for value in curve.tolist()]
    return named


def channels(shape: tuple[int, ...]) -> list[str]:
    """Names of the curves of a tensor of this shape."""
    return [f"c{number}" for number in range(min(shape) if len(shape) == 2 else 1)]


def sketch(image: NDArray[np.uint8], *, width: int) -> list[str]:
    """A picture in letters, at most `width` wide: two letters a pixel, which is about square in a terminal."""
    grey = image if image.ndim == 2 else image.mean(axis=2)
    step = max(1, math.ceil(2 * grey.shape[1] / width))
    small = grey[::step, ::step]
    shade = (small.astype(np.float64) * (len(_SHADES) - 1) / 255).round().astype(int)
    return ["".join(2 * _SHADES[each] for each in row).rstrip() for row in shade]


def _spread(tensor: Array) -> NDArray[np.uint8]:
    finite = np.nan_to_num(tensor.astype(np.float64), posinf=0.0, neginf=0.0)
    least, most = finite.min(), finite.max()
    spread: NDArray[np.uint8] = np.rint((finite - least) * (255.0 / (most - least) if most > least else 0.0)).astype(
        np.uint8
    )
    return spread


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
