"""From bytes to the task's tensor: what arrives is decoded, an image is resized, and nothing else is changed.

Normalisation and features are inside the model's graph, so a tensor here is raw: the sensor's own numbers. A dtype is
changed only where every value of the old one has its place in the new one. Sizes are checked before decoding.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import numpy as np

from edge_agent.decoding import images, npy
from shared import codec
from shared.codec import Array
from shared.errors import FrameError, SampleError
from shared.manifest import TensorSpec

# A number in JSON takes up to 24 characters and its comma; what stands around the numbers gets the rest.
_NUMBER_BYTES, _AROUND_BYTES = 32, 64 * 1024
_WIDEST_BYTES = 8


class Form(StrEnum):
    """How a sample is written down.

    `raw`: the tensor's bytes, little-endian, in C order. `npy`: numpy's file. `json`, `cbor`: a number, or lists of
    numbers, nested like the shape or flat; `cbor` also typed arrays (RFC 8746). `image`: JPEG or PNG.
    """

    RAW = "raw"
    NPY = "npy"
    JSON = "json"
    CBOR = "cbor"
    IMAGE = "image"


ENDINGS: Mapping[str, Form] = {
    ".npy": Form.NPY,
    ".bin": Form.RAW,
    ".jpg": Form.IMAGE,
    ".jpeg": Form.IMAGE,
    ".png": Form.IMAGE,
}
_CONTENT_TYPES: Mapping[str, Form] = {
    "application/octet-stream": Form.RAW,
    "application/x-npy": Form.NPY,
    "application/json": Form.JSON,
    "text/plain": Form.JSON,
    "application/cbor": Form.CBOR,
    "image/jpeg": Form.IMAGE,
    "image/jpg": Form.IMAGE,
    "image/png": Form.IMAGE,
}


def form_of(content_type: str) -> Form:
    """The form that an HTTP content type names; plain text is read as JSON, as a sensor's bare number is.

    Raises:
        SampleError: another content type.
    """
    name = content_type.partition(";")[0].strip().lower()
    if name not in _CONTENT_TYPES:
        raise SampleError(f"a sample of content type {name!r}; known are {', '.join(_CONTENT_TYPES)}")
    return _CONTENT_TYPES[name]


def max_bytes(form: Form, spec: TensorSpec) -> int:
    """How many bytes a sample in this form may have; more are refused unread."""
    elements = math.prod(spec.shape)
    match form:
        case Form.RAW:
            return elements * np.dtype(spec.dtype).itemsize
        case Form.NPY:
            # Room for a wider dtype: its error is the one that helps.
            return elements * _WIDEST_BYTES + npy.MAX_HEADER_BYTES
        case Form.JSON | Form.CBOR:
            return elements * _NUMBER_BYTES + _AROUND_BYTES
        case Form.IMAGE:
            return images.MAX_BYTES


def decode(body: bytes, form: Form, spec: TensorSpec, *, fields: Sequence[str] = ()) -> Array:
    """The tensor of `spec` that `body` holds; may be a read-only view of it.

    Args:
        fields: of JSON or CBOR maps, the numbers to take, in order; `a.b` is b in a.

    Raises:
        SampleError: too large, damaged, or of another shape or dtype; says what came and what is needed.
        SettingsError: an image, and Pillow is not installed.
    """
    limit = max_bytes(form, spec)
    if len(body) > limit:
        raise SampleError(f"{form} of {len(body):,} bytes; the task takes {_words(spec)}, at most {limit:,} bytes")
    match form:
        case Form.RAW:
            return _raw(body, spec)
        case Form.NPY:
            return _npy(body, spec)
        case Form.IMAGE:
            return lossless(images.decode(body, spec), spec)
        case Form.JSON | Form.CBOR:
            value = parse(body, form, max_bytes=limit)
            return numbers(picked(value, fields) if fields else value, spec)


def parse(body: bytes, form: Form, *, max_bytes: int) -> Any:
    """The value in JSON or CBOR bytes.

    Raises:
        SampleError: they are too many, or not whole and valid.
    """
    if len(body) > max_bytes:
        raise SampleError(f"{form} of {len(body):,} bytes; at most {max_bytes:,} are read")
    try:
        if form is Form.CBOR:
            return codec.decode(body)
        return json.loads(body, parse_constant=_no_number)
    except FrameError as err:
        raise SampleError(str(err)) from err
    except (ValueError, RecursionError) as err:
        raise SampleError(f"{len(body):,} bytes are not valid JSON: {err}") from err


def picked(value: Any, fields: Sequence[str]) -> list[float]:
    """The numbers at these places of nested maps, in order; `a.b` is b in a.

    Raises:
        SampleError: one is missing or no number.
    """
    return [_number_at(value, field) for field in fields]


def value_at(value: Any, field: str) -> Any:
    """What is at this place of nested maps; `a.b` is b in a.

    Raises:
        SampleError: there is nothing.
    """
    place = value
    for key in field.split("."):
        if not isinstance(place, Mapping) or key not in place:
            raise SampleError(f"no field {field!r}; there are: {_keys(value)}")
        place = place[key]
    return place


def numbers(value: Any, spec: TensorSpec) -> Array:
    """The tensor of a number, of lists of numbers or of a typed array; nested like the shape, or flat.

    Raises:
        SampleError: something else, another count, or a number out of range.
    """
    if isinstance(value, np.ndarray):
        return lossless(_shaped(value, spec), spec)
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError) as err:
        raise SampleError(f"lists of unequal length; the task takes {_words(spec)}") from err
    if array.dtype.kind not in "iuf":
        raise SampleError(f"something that is no number or list of numbers; the task takes {_words(spec)}")
    return written(_shaped(array, spec), spec)


def written(array: Array, spec: TensorSpec) -> Array:
    """The tensor of numbers that were written down, in the task's shape.

    Such a number has no dtype: for an integer tensor it must be an integer in range; for a float one it is rounded.

    Raises:
        SampleError: a number that the task's dtype does not hold.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        tensor = array.astype(spec.dtype)
    if not (np.isfinite(tensor).all() if tensor.dtype.kind == "f" else np.array_equal(tensor, array)):
        raise SampleError(f"a number that {spec.dtype} does not hold; the task takes {_words(spec)}")
    return tensor


def lossless(array: Array, spec: TensorSpec) -> Array:
    """The same numbers as `spec` has them.

    Raises:
        SampleError: another shape, or a dtype with values that the task's cannot hold.
    """
    _check(array.shape, array.dtype, spec)
    return np.ascontiguousarray(array, dtype=spec.dtype)


def _raw(body: bytes, spec: TensorSpec) -> Array:
    needed = max_bytes(Form.RAW, spec)
    if len(body) != needed:
        raise SampleError(f"raw of {len(body):,} bytes; the task takes {_words(spec)}, which is {needed:,}")
    tensor = np.frombuffer(body, np.dtype(spec.dtype).newbyteorder("<"))
    return tensor.reshape(spec.shape).astype(spec.dtype, copy=False)


def _npy(body: bytes, spec: TensorSpec) -> Array:
    header = npy.header(body)
    _check(header.shape, header.dtype, spec)
    if header.file_bytes != len(body):
        raise SampleError(f"npy of {len(body):,} bytes; its header asks for {header.file_bytes:,}")
    flat = np.frombuffer(body, header.dtype, offset=header.begin)
    return lossless(flat.reshape(header.shape, order=header.order), spec)


def _number_at(value: Any, field: str) -> float:
    number = value_at(value, field)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise SampleError(f"the field {field!r} is {type(number).__name__}, not a number")
    return number


def _keys(value: Any) -> str:
    keys = list(value)[:20] if isinstance(value, Mapping) else []
    return ", ".join(repr(str(key)[:40]) for key in keys) or "none"


def _check(shape: tuple[int, ...], dtype: np.dtype[Any], spec: TensorSpec) -> None:
    if shape != spec.shape:
        raise SampleError(f"a sample of shape {list(shape)}; the task takes {_words(spec)}")
    if not np.can_cast(dtype, spec.dtype, "safe"):
        raise SampleError(f"a sample of {dtype}, which does not fit without loss; the task takes {_words(spec)}")


def _shaped(array: Array, spec: TensorSpec) -> Array:
    """As the task's shape, from exactly it or from a flat one."""
    if array.shape != spec.shape and not (array.ndim <= 1 and array.size == math.prod(spec.shape)):
        raise SampleError(f"numbers of shape {list(array.shape)}; the task takes {_words(spec)}")
    return array.reshape(spec.shape)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _words(spec: TensorSpec) -> str:
    return f"{spec.dtype} {list(spec.shape)}"
