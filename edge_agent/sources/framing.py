"""A byte stream cut into frames: lines, pieces of one size, numpy files, CBOR data items. Pure."""

from __future__ import annotations

from collections.abc import Callable

from edge_agent.decoding import npy
from shared.errors import SampleError

# Where the frame at the buffer's start ends; None: that needs more bytes. Raises `SampleError` when none begins there.
Measure = Callable[[bytearray], int | None]

_MAX_CBOR_DEPTH = 64
_CBOR_BREAK = 0xFF
_UNTIL_BREAK = -1


class Frames:
    """Cuts a stream; what is no frame, or is longer than `max_bytes()`, is refused, and the next one is looked for.

    Args:
        measure: one of this module's.
        refused: told once of each piece that is given up.
        mark: what a frame begins (or, for lines, the one before it ends) with, to find the next one by; empty: all
            that was read so far is given up.
    """

    def __init__(
        self,
        measure: Measure,
        *,
        max_bytes: Callable[[], int],
        refused: Callable[[SampleError], None],
        mark: bytes = b"",
    ) -> None:
        self._measure, self._max_bytes, self._refused, self._mark = measure, max_bytes, refused, mark
        self._buffer = bytearray()
        self._lost = False

    def add(self, chunk: bytes) -> list[bytes]:
        """The frames that these bytes complete."""
        self._buffer += chunk
        whole: list[bytes] = []
        while self._buffer and (not self._lost or self._found(0)):
            try:
                end = self._end()
            except SampleError as err:
                self._refused(err)
                self._lost = bool(self._mark) and not self._found(1)
                if not self._mark:
                    self._buffer.clear()
                continue
            if end is None:
                break
            whole.append(bytes(self._buffer[:end]))
            del self._buffer[:end]
        return whole

    def end(self) -> None:
        """The stream ended, or has a gap: what is half there is refused."""
        if self._buffer and not self._lost:
            self._refused(SampleError(f"the stream ended within a frame, after {len(self._buffer):,} bytes of it"))
        self._buffer.clear()
        self._lost = False

    def _end(self) -> int | None:
        end, limit = self._measure(self._buffer), self._max_bytes()
        if max(len(self._buffer) if end is None else end, 0) > limit:
            raise SampleError(f"a frame of more than {limit:,} bytes")
        return end

    def _found(self, begin: int) -> bool:
        """Drop what lies before the next mark; without one, all but what may be its beginning."""
        at = self._buffer.find(self._mark, begin)
        self._lost = at < 0
        keep = len(self._mark) - 1
        del self._buffer[: at if at >= 0 else max(begin, len(self._buffer) - keep)]
        return not self._lost


def line(buffer: bytearray) -> int | None:
    """A line with its end."""
    return buffer.find(b"\n") + 1 or None


def piece(size: Callable[[], int]) -> Measure:
    """So many bytes."""

    def measure(buffer: bytearray) -> int | None:
        return size() if len(buffer) >= size() else None

    return measure


def npy_file(buffer: bytearray) -> int | None:
    """A file of numpy's format."""
    start = bytes(buffer[: npy.MAX_HEADER_BYTES])
    begin = npy.data_begin(start)
    if begin is None or begin > len(start):
        return None
    end = npy.header(start).file_bytes
    return end if end <= len(buffer) else None


def cbor_item(buffer: bytearray) -> int | None:
    """A data item of CBOR (RFC 8949, appendix C), whose value is not looked at."""
    at = 0
    open_items = [1]  # how many are still to come, level by level
    while open_items:
        if open_items[-1] == 0:
            open_items.pop()
            continue
        if at >= len(buffer):
            return None
        if buffer[at] == _CBOR_BREAK and open_items[-1] == _UNTIL_BREAK:
            open_items.pop()
            at += 1
            continue
        major, argument, at = _cbor_head(buffer, at)
        if at > len(buffer):
            return None
        if open_items[-1] > 0:
            open_items[-1] -= 1
        if major in {2, 3} and argument is not None:
            at += argument
        elif major in {2, 3, 4, 5, 6}:
            each = {5: 2}.get(major, 1)
            open_items.append(_UNTIL_BREAK if argument is None else 1 if major == 6 else argument * each)
        if len(open_items) > _MAX_CBOR_DEPTH:
            raise SampleError("CBOR that is nested too deep")
    return at if at <= len(buffer) else None


def _cbor_head(buffer: bytearray, at: int) -> tuple[int, int | None, int]:
    """Major type, argument (None: until a break), and where the head ends, which may be after the buffer."""
    major, info = buffer[at] >> 5, buffer[at] & 31
    at += 1
    if info < 24:
        return major, info, at
    if info < 28:
        width = 1 << (info - 24)
        return major, int.from_bytes(buffer[at : at + width], "big"), at + width
    if info == 31 and major in {2, 3, 4, 5}:
        return major, None, at
    raise SampleError(f"byte {buffer[at - 1]:#04x} begins no CBOR data item")
