"""A job's log, read in parts while it is being written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

# Bytes in one part, at most.
PART = 256 * 1024


@dataclass(frozen=True, slots=True)
class Part:
    """Some of a log.

    Attributes:
        text: whole lines, unless one is longer than a part.
        next: the byte at which the log goes on.
    """

    text: str
    next: int


def tail(file: Path, lines: int) -> Part:
    """The last lines, of at most `PART` bytes; no file: nothing yet."""
    try:
        with file.open("rb") as opened:
            size = opened.seek(0, os.SEEK_END)
            start = max(0, size - PART)
            opened.seek(start)
            content = opened.read(size - start)
    except FileNotFoundError:
        return Part("", 0)
    found = content.splitlines(keepends=True)
    if start > 0 and len(found) > 1:
        found = found[1:]
    return Part(b"".join(found[-lines:] if lines else []).decode(errors="replace"), size)


def after(file: Path, position: int, *, whole: bool) -> Part:
    """What was written from the byte `position` on.

    Args:
        whole: nobody writes any more, so that a last line without an end is one, too.
    """
    try:
        with file.open("rb") as opened:
            opened.seek(position)
            content = opened.read(PART)
    except FileNotFoundError:
        return Part("", position)
    if not whole and len(content) < PART:
        content = content[: content.rfind(b"\n") + 1]
    return Part(content.decode(errors="replace"), position + len(content))
