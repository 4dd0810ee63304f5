"""CBOR (RFC 8949) with typed arrays (RFC 8746): the only bytes that cross the wire.

A numpy array travels as tag 40 over [shape, typed array], its raw little-endian bytes inside: 1.00× its size, and no
number is ever printed. A decoded array is a read-only view of the frame. Sizes are checked before anything is decoded,
and an array's claimed shape against the bytes that are really there before anything is allocated.
"""

from __future__ import annotations

import io
import math
from functools import lru_cache
from typing import Any
from uuid import UUID

import cbor2
import numpy as np
from numpy.typing import NDArray

from shared.errors import MalformedFrame, OversizeFrame

Array = NDArray[Any]

MAX_FRAME_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 16
MAX_DIMENSIONS = 8

# RFC 8746, table 1: the tag of each element type, little-endian where it is wider than a byte.
_TAG_OF: dict[np.dtype[Any], int] = {
    np.dtype("uint8"): 64,
    np.dtype("<u2"): 69,
    np.dtype("<u4"): 70,
    np.dtype("<u8"): 71,
    np.dtype("int8"): 72,
    np.dtype("<i2"): 77,
    np.dtype("<i4"): 78,
    np.dtype("<i8"): 79,
    np.dtype("<f2"): 84,
    np.dtype("<f4"): 85,
    np.dtype("<f8"): 86,
}
_DTYPE_OF: dict[int, np.dtype[Any]] = {tag: dtype for dtype, tag in _TAG_OF.items()}
_MULTI_DIMENSIONAL = 40
# Tags that cbor2 decodes by itself and the contract does not have (it has UUIDs, tag 37). They cost more than they
# carry: one decimal fraction of 1 MB keeps a core busy for 107 s, shared references make values that hold themselves.
_FOREIGN_TAGS = (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799)

# The first UUID makes cbor2 import half of `email`: 4 ms, and 130 from a busy disk, for which somebody would wait.
cbor2.dumps(UUID(int=0))


def encode(value: object, /) -> bytes:
    """CBOR bytes of maps, lists, strings, numbers, bytes, UUIDs and numpy arrays.

    Raises:
        TypeError: something in `value` has no place in the contract (an object, an array of strings).
    """
    try:
        return cbor2.dumps(value, default=_encode_array)
    except cbor2.CBOREncodeError as err:
        raise TypeError(str(err)) from err


def encode_array(value: Array, /) -> tuple[bytes, memoryview]:
    """The bytes of `encode(value)` in two parts, what comes first and the elements, which are not copied.

    Raises:
        TypeError: an array of a dtype that has no place in the contract.
    """
    tag, raw = _typed(value)
    return _first_bytes(tag, value.shape, raw.nbytes), raw.reshape(-1).view(np.uint8).data


def decode(frame: bytes, /, *, max_bytes: int = MAX_FRAME_BYTES) -> Any:
    """The value in `frame`; lists come back as lists or tuples, typed arrays as read-only numpy arrays.

    Raises:
        OversizeFrame: the frame is larger than `max_bytes`; nothing was decoded.
        MalformedFrame: not CBOR, trailing bytes, nested too deep, or an array that does not fit its bytes.
    """
    if len(frame) > max_bytes:
        raise OversizeFrame(f"a frame of {len(frame):,} bytes is over the limit of {max_bytes:,}")
    try:
        stream = io.BytesIO(frame)
        reader = cbor2.CBORDecoder(
            stream,
            tag_hook=_decode_tag,
            semantic_decoders=_REFUSING,
            max_depth=MAX_DEPTH,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
        value = reader.decode()
    # cbor2 wraps what a tag hook raises, and lets ValueError, OverflowError and others through for hostile input.
    except (cbor2.CBORDecodeError, ValueError, OverflowError, TypeError, RecursionError, MemoryError) as err:
        cause = err.__cause__ if isinstance(err.__cause__, MalformedFrame) else err
        raise MalformedFrame(f"a frame of {len(frame):,} bytes is not valid: {cause}") from err
    if stream.tell() != len(frame):
        raise MalformedFrame(f"a frame of {len(frame):,} bytes ends after {stream.tell():,}")
    return value


def _encode_array(encoder: cbor2.CBOREncoder, value: object) -> None:
    if isinstance(value, np.generic):
        encoder.encode(value.item())
        return
    if isinstance(value, UUID):  # a subclass, such as asyncpg's: cbor2 knows the class itself alone
        encoder.encode(UUID(int=value.int))
        return
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{type(value).__name__} cannot travel in a frame")
    tag, raw = _typed(value)
    encoder.encode(cbor2.CBORTag(_MULTI_DIMENSIONAL, [list(value.shape), cbor2.CBORTag(tag, raw.tobytes())]))


def _typed(value: Array) -> tuple[int, Array]:
    """The tag of an array's elements, and the array with these side by side, little-endian."""
    dtype = value.dtype.newbyteorder("<") if value.dtype.byteorder == ">" else value.dtype
    tag = _TAG_OF.get(dtype)
    if tag is None:
        raise TypeError(f"an array of dtype {value.dtype} cannot travel in a frame")
    return tag, np.ascontiguousarray(value, dtype=dtype)


@lru_cache(maxsize=64)  # a device's samples are all of a few shapes
def _first_bytes(tag: int, shape: tuple[int, ...], size: int) -> bytes:
    return _head(6, _MULTI_DIMENSIONAL) + _head(4, 2) + cbor2.dumps(list(shape)) + _head(6, tag) + _head(2, size)


def _head(major: int, number: int) -> bytes:
    """The first bytes of a CBOR item (RFC 8949, 3), as short as they can be."""
    if number < 24:
        return bytes((major << 5 | number,))
    width = next(width for width in (1, 2, 4, 8) if number < 1 << 8 * width)
    return bytes((major << 5 | 23 + width.bit_length(),)) + number.to_bytes(width, "big")


def _decode_tag(tag: cbor2.CBORTag, _immutable: object) -> object:
    if tag.tag == _MULTI_DIMENSIONAL:
        return _shaped(tag.value)
    dtype = _DTYPE_OF.get(tag.tag)
    if dtype is None:
        raise MalformedFrame(f"CBOR tag {tag.tag} is not part of the contract")
    if not isinstance(tag.value, bytes) or len(tag.value) % dtype.itemsize:
        raise MalformedFrame(f"a typed array of {dtype} does not hold whole elements")
    return np.frombuffer(tag.value, dtype=dtype)


def _refuse_tag(_value: object, _immutable: object) -> object:
    raise MalformedFrame("it has a CBOR tag that is not part of the contract")


_REFUSING = dict.fromkeys(_FOREIGN_TAGS, _refuse_tag)


def _shaped(value: object) -> Array:
    if not (isinstance(value, list | tuple) and len(value) == 2):
        raise MalformedFrame("a multi-dimensional array must be [shape, typed array]")
    shape, flat = value
    if not isinstance(flat, np.ndarray) or flat.ndim != 1:
        raise MalformedFrame("a multi-dimensional array must hold one typed array")
    if not isinstance(shape, list | tuple) or len(shape) > MAX_DIMENSIONS:
        raise MalformedFrame(f"an array's shape must be a list of at most {MAX_DIMENSIONS} sizes")
    if not all(type(size) is int and size >= 0 for size in shape) or math.prod(shape) != flat.size:
        raise MalformedFrame(f"an array of {flat.size} elements does not fill the shape {list(shape)}")
    return flat.reshape(tuple(shape))
