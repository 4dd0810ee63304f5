"""The header of numpy's file format (versions 1 and 2), read from bytes that a stranger may have written."""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from shared.errors import SampleError

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 16 * 1024

_PREFIX_BYTES = 12


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself; `begin`: where its data begins."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: Literal["C", "F"]
    begin: int

    @property
    def file_bytes(self) -> int:
        return self.begin + math.prod(self.shape) * self.dtype.itemsize


def data_begin(start: bytes) -> int | None:
    """Where the data of a file begins; None: more of it is needed to tell, 12 bytes at most.

    Raises:
        SampleError: these bytes begin no such file, or one with a header of more than `MAX_HEADER_BYTES`.
    """
    if len(start) < _PREFIX_BYTES and MAGIC.startswith(start[: len(MAGIC)]):
        return None
    width = {1: 2, 2: 4}.get(start[6]) if start.startswith(MAGIC) else None
    if width is None:
        raise SampleError("not numpy's npy of version 1 or 2")
    begin = 8 + width + int.from_bytes(start[8 : 8 + width], "little")
    if begin > MAX_HEADER_BYTES:
        raise SampleError(f"npy with a header of {begin:,} bytes; at most {MAX_HEADER_BYTES:,} are read")
    return begin


def header(start: bytes) -> Header:
    """The header at the start of a file; what follows it may be missing.

    Raises:
        SampleError: none, cut short, or one of something else than numbers: objects are never read.
    """
    begin = data_begin(start)
    if begin is None or begin > len(start):
        raise SampleError("npy that ends within its header")
    _, brace, rest = start[8:begin].partition(b"{")
    try:
        said = ast.literal_eval((brace + rest).decode("ascii"))
        shape, fortran, dtype = said["shape"], said["fortran_order"], np.dtype(said["descr"])
    # A damaged header is damaged Python, and fails in its parser's many ways.
    except (ValueError, TypeError, KeyError, SyntaxError, RecursionError, MemoryError) as err:
        raise SampleError(f"npy with a damaged header: {err}") from err
    if dtype.kind not in "biuf" or not (isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)):
        raise SampleError(f"npy of {dtype}, shape {shape}: not an array of numbers")
    return Header(shape, dtype, "F" if fortran else "C", begin)
