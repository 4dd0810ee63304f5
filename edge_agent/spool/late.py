"""Rows that came while the database was busy with itself: a small file of their own, until it takes them.

A sample that is put does not wait for the database's first flush after a checkpoint: its row is appended here, which is
as safe from a killed process, and moves into the database a moment later.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

from edge_agent.spool.layout import COLUMNS
from shared import codec
from shared.errors import FrameError

# Of all columns, as `layout.INSERT` takes them; the first is the row's number.
Values = tuple[Any, ...]

MAX_LATE = 4_096
_COLUMNS = len(COLUMNS.split(","))
_HEAD = struct.Struct("<II")  # length, CRC-32


class Late:
    """Not thread-safe, but for `get`: the spool's lock guards it.

    Attributes:
        rows: by number.
    """

    def __init__(self, file: Path) -> None:
        """What an earlier run left is in `rows`, as far as it is whole."""
        self._file = file
        self._descriptor: int | None = None
        self.rows: dict[int, Values] = {}
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            return
        offset = 0
        while (values := _read(data, offset)) is not None:
            row, offset = values
            self.rows[row[0]] = row

    def put(self, values: Values) -> None:
        """Append a row.

        Raises:
            OSError: the disk is full or read-only; nothing was added.
        """
        packed = codec.encode(list(values))
        record = _HEAD.pack(len(packed), zlib.crc32(packed)) + packed
        if self._descriptor is None:
            self._descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        size = os.fstat(self._descriptor).st_size
        if os.write(self._descriptor, record) != len(record):
            os.ftruncate(self._descriptor, size)
            raise OSError("no space left on device")
        self.rows[int(values[0])] = values

    def get(self, number: int) -> Values | None:
        """The row, None when it is not here; in any thread."""
        return self.rows.get(number)

    def clear(self) -> None:
        """The database has them all.

        Raises:
            OSError: the disk is read-only.
        """
        self.rows.clear()
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
        elif self._file.exists():
            os.truncate(self._file, 0)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _read(data: bytes, offset: int) -> tuple[Values, int] | None:
    """The row at `offset` and where the next begins; None: nothing whole follows."""
    if offset + _HEAD.size > len(data):
        return None
    length, crc = _HEAD.unpack_from(data, offset)
    start = offset + _HEAD.size
    packed = data[start : start + length]
    if len(packed) != length or zlib.crc32(packed) != crc:
        return None
    try:
        values = codec.decode(packed)
    except FrameError:
        return None
    of_this_release = isinstance(values, list) and len(values) == _COLUMNS
    return (tuple(values), start + length) if of_this_release else None
