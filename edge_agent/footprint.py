"""Gives back the memory of code that only the start needed: about 20 MB of libraries' pages.

Loading a model runs through most of onnxruntime once, and Linux keeps code that ran: it protects a mapped page of code
longer than other pages of files. Unmapped, such a page lies in the page cache, is the first to be taken when memory is
short, and counts no more as this process's. What is needed again is mapped again where it is used, unread from the disk
unless the kernel has taken it meanwhile: the first inference afterwards takes about half a millisecond longer.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

# Once the first answers are given; then as often as somebody may have loaded a new model.
FIRST_AFTER_S = 10.0
AGAIN_AFTER_S = 3600.0

_SMAPS = Path("/proc/self/smaps")
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


async def keep_small(
    give: Callable[[], int] | None = None, *, first_after_s: float = FIRST_AFTER_S, again_after_s: float = AGAIN_AFTER_S
) -> None:
    """Give back what the start needed, now and then; runs until cancelled."""
    await asyncio.sleep(first_after_s)
    while True:
        await asyncio.to_thread(give or give_back)
        await asyncio.sleep(again_after_s)


def give_back(smaps: Path = _SMAPS) -> int:
    """Unmap the code of files until it is used again; returns the bytes, 0 where the kernel does not let us see."""
    try:
        mappings = code_of_files(smaps.read_text().splitlines())
    except OSError as err:
        log.debug("memory stays as it is: %s", err)
        return 0
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    given = 0
    for mapping in mappings:
        size = mapping.end - mapping.begin
        if madvise(ctypes.c_void_p(mapping.begin), ctypes.c_size_t(size), _MADV_DONTNEED) == 0:
            given += mapping.resident_bytes
    return given


def code_of_files(smaps: Iterable[str]) -> list[Mapping]:
    """The mappings that may be dropped, from the lines of /proc/self/smaps (proc(5)).

    Code, not writable, of a file, and without any page of its own: a page that was changed, by a debugger say, is
    nowhere else.
    """
    found: list[Mapping] = []
    begin = end = resident = 0
    is_code = False
    for line in smaps:
        first, *rest = line.split()
        if not first.endswith(":"):
            addresses, permissions = first, rest[0]
            begin, end = (int(address, 16) for address in addresses.split("-"))
            is_code = permissions == "r-xp" and len(rest) > 4 and rest[4].startswith("/")
        elif first == "Rss:":
            resident = int(rest[0]) * 1024
        elif first == "Anonymous:" and is_code and rest[0] == "0" and resident:
            found.append(Mapping(begin, end, resident))
    return found
