"""Tensors of the Open Inference Protocol as numpy arrays and back, as JSON numbers or as raw bytes. Pure.

Raw bytes are little-endian, row-major and without padding; a string is its length (uint32) and its UTF-8 bytes (the
protocol's binary tensor data extension).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_agent.errors import RequestRefused
from shared.codec import Array

# The protocol's names of what a manifest may say.
_DTYPE_OF: dict[str, np.dtype[Any]] = {
    "UINT8": np.dtype("uint8"),
    "UINT16": np.dtype("uint16"),
    "INT8": np.dtype("int8"),
    "INT16": np.dtype("int16"),
    "INT32": np.dtype("int32"),
    "FP16": np.dtype("float16"),
    "FP32": np.dtype("float32"),
}
_DATATYPE_OF = {dtype: name for name, dtype in _DTYPE_OF.items()}
STRINGS = "BYTES"


def datatype_of(dtype: str) -> str:
    """The protocol's name of a numpy dtype."""
    return _DATATYPE_OF[np.dtype(dtype)]


def from_json(data: object, *, datatype: str, shape: tuple[int, ...]) -> Array:
    """Numbers, flat in row-major order or nested as the shape says, as an array of exactly that type and shape.

    Raises:
        RequestRefused: something else than numbers of that type, or not as many as the shape holds.
    """
    dtype = _dtype(datatype)
    try:
        found = np.array(data)
    except (ValueError, OverflowError) as err:
        raise RequestRefused("data is neither flat nor nested as its shape says") from err
    if found.size != math.prod(shape) or found.shape not in {shape, (found.size,)}:
        raise RequestRefused(f"data of shape {list(found.shape)} does not fill the shape {list(shape)}")
    return _converted(found, dtype, datatype).reshape(shape)


def from_bytes(raw: memoryview, *, datatype: str, shape: tuple[int, ...]) -> Array:
    """Raw bytes as an array of its own: aligned and writable, whatever the request was.

    Raises:
        RequestRefused: not as many bytes as the shape takes.
    """
    dtype = _dtype(datatype)
    size = math.prod(shape) * dtype.itemsize
    if len(raw) != size:
        raise RequestRefused(f"{len(raw):,} bytes of data; {datatype} of shape {list(shape)} takes {size:,}")
    return np.frombuffer(raw, dtype=dtype.newbyteorder("<")).astype(dtype).reshape(shape)


def to_bytes(values: Sequence[Any], datatype: str) -> bytes:
    """Values of one output as raw bytes."""
    if datatype != STRINGS:
        dtype = _DTYPE_OF[datatype]
        return np.asarray(values, dtype=dtype).astype(dtype.newbyteorder("<")).tobytes()
    texts = [str(value).encode() for value in values]
    return b"".join(part for text in texts for part in (struct.pack("<I", len(text)), text))


def _dtype(datatype: str) -> np.dtype[Any]:
    dtype = _DTYPE_OF.get(datatype)
    if dtype is None:
        raise RequestRefused(f"no model takes the datatype {datatype!r}; known: {', '.join(_DTYPE_OF)}")
    return dtype


def _converted(found: Array, dtype: np.dtype[Any], datatype: str) -> Array:
    """The same numbers in another type; nothing is cut off, rounded to an integer or taken for a number."""
    takes = {"u": "iu", "i": "iu", "f": "iuf"}[dtype.kind]
    if found.size and found.dtype.kind not in takes:
        raise RequestRefused(f"data holds values that are not {datatype}")
    if found.size and dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        if int(found.min()) < bounds.min or int(found.max()) > bounds.max:
            raise RequestRefused(f"data holds numbers outside {datatype}, {bounds.min} to {bounds.max}")
    try:
        with np.errstate(over="raise"):
            return found.astype(dtype)
    except FloatingPointError as err:
        raise RequestRefused(f"data holds numbers too large for {datatype}") from err
