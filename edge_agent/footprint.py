"""Gives back the memory that only the start needed: about 25 of 90 MB.

Loading a model runs through most of onnxruntime once, and Linux keeps code that ran: it protects a mapped page of code
longer than other pages of files. Unmapped, such a page lies in the page cache, is the first to be taken when memory is
short, and counts no more as this process's. What is needed again is mapped again where it is used, unread from the disk
unless the kernel has taken it meanwhile: the first inference afterwards takes about a millisecond longer. What was
allocated meanwhile and is free again is given back too, 6 MB on a small Arm processor and next to nothing on x86.

A service does this; a program that embeds an agent keeps its memory as it likes.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

# Once the first answers are given; then again ten times as late each time (a slow device still loads its model, the
# settings were reloaded), at last as often as somebody may have brought a new model.
FIRST_AFTER_S = 10.0
AGAIN_AFTER_S = 3600.0
# A library that is being loaded lies there as code all over, for microseconds, before its data get their own place.
_SETTLED_S = 1.0

_SMAPS = Path("/proc/self/smaps")
_UNCHANGING = ("r-xp", "r--p")
_MADV_DONTNEED = 4  # madvise(2), Linux


@dataclass(frozen=True, slots=True)
class Mapping:
    """A piece of a file in this process's memory.

    Attributes:
        begin, end: addresses.
        resident_bytes: of it, that count as this process's.
    """

    begin: int
    end: int
    resident_bytes: int


@contextmanager
def kept_small(
    give: Callable[[], int] | None = None, *, first_after_s: float = FIRST_AFTER_S, again_after_s: float = AGAIN_AFTER_S
) -> Iterator[None]:
    """Within it, what the start needed is given back now and then, by a thread of its own."""
    ended = threading.Event()

    def look() -> None:
        wait_s = first_after_s
        while not ended.wait(wait_s):
            (give or give_back)()
            wait_s = min(10 * wait_s, again_after_s)

    thread = threading.Thread(target=look, name="footprint", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def give_back(smaps: Path = _SMAPS, *, settled_s: float = _SETTLED_S) -> int:
    """Unmap what is only read of files until it is used again, and free what is free.

    Returns the bytes that were unmapped, 0 where the kernel does not show them.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    given = _unmap(libc, smaps, settled_s)
    if hasattr(libc, "malloc_trim"):  # glibc's
        libc.malloc_trim(0)
    return given


def unchanging(smaps: Iterable[str]) -> list[Mapping]:
    """The mappings that may be dropped, from the lines of /proc/self/smaps (proc(5)).

    Code and constants of a file, not writable, and without any page of their own: a page that was changed, by the
    loader or a debugger say, is nowhere else.
    """
    found: list[Mapping] = []
    begin = end = resident = 0
    is_unchanging = False
    for line in smaps:
        first, *rest = line.split()
        if not first.endswith(":"):
            addresses, permissions = first, rest[0]
            begin, end = (int(address, 16) for address in addresses.split("-"))
            is_unchanging = permissions in _UNCHANGING and len(rest) > 4 and rest[4].startswith("/")
        elif first == "Rss:":
            resident = int(rest[0]) * 1024
        elif first == "Anonymous:" and is_unchanging and rest[0] == "0" and resident:
            found.append(Mapping(begin, end, resident))
    return found


def _unmap(libc: ctypes.CDLL, smaps: Path, settled_s: float) -> int:
    try:
        settled = {(mapping.begin, mapping.end) for mapping in _read(smaps)}
        time.sleep(settled_s)
        mappings = [mapping for mapping in _read(smaps) if (mapping.begin, mapping.end) in settled]
    except OSError as err:
        log.debug("memory stays as it is: %s", err)
        return 0
    given = 0
    for mapping in mappings:
        size = mapping.end - mapping.begin
        if libc.madvise(ctypes.c_void_p(mapping.begin), ctypes.c_size_t(size), _MADV_DONTNEED) == 0:
            given += mapping.resident_bytes
    return given


def _read(smaps: Path) -> list[Mapping]:
    # Line by line: the text as a whole takes a megabyte, and other threads would wait until it is understood.
    with smaps.open() as lines:
        return unchanging(lines)
