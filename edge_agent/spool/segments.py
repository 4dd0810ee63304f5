"""Append-only files of payloads: the part of the spool that holds bytes.

Small files, each deleted when nothing in it is wanted any more; nothing is ever rewritten, which spares the flash.
"""

from __future__ import annotations

import errno
import os
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shared import atomic


@dataclass(frozen=True, slots=True)
class Place:
    """Where a payload lies; `crc` (CRC-32) tells a payload that a power cut left half written."""

    segment: int
    offset: int
    length: int
    crc: int


class Segments:
    """Payloads in `folder`, numbered files `00000001.seg` and up. Not thread-safe: the spool's lock guards it."""

    def __init__(self, folder: Path, *, segment_bytes: int, live: dict[int, int]) -> None:
        """Open the folder; `live` counts the wanted payloads of each segment, a file without any is deleted."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._live = dict(live)
        found = sorted(int(file.stem) for file in folder.glob("*.seg"))
        for number in found:
            if not self._live.get(number):
                atomic.remove(self._file(number))
        # A new file after every start: what a power cut left at the end of the last one is never appended to.
        self._number = max([*found, *self._live, 0]) + 1
        self._descriptor: int | None = None
        self._offset = 0
        self._unsynced: set[int] = set()
        self._new_name = False

    def append(self, *parts: bytes | memoryview) -> Place:
        """Write a payload, given in parts (to the system's cache; `sync` makes it durable).

        Raises:
            OSError: the disk is full or read-only.
        """
        if self._descriptor is not None and self._offset >= self._segment_bytes:
            self._next_file()
        if self._descriptor is None:
            self._descriptor = os.open(self._file(self._number), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            self._offset = os.fstat(self._descriptor).st_size
            self._new_name = True
        length, crc = 0, 0
        for part in parts:
            length, crc = length + len(part), zlib.crc32(part, crc)
        place = Place(self._number, self._offset, length, crc)
        written = os.writev(self._descriptor, parts)
        self._unsynced.add(self._number)
        if written != length:
            # What did not fit whole must not take the last of the space.
            os.ftruncate(self._descriptor, place.offset)
            raise OSError(errno.ENOSPC, "no space left on device")
        self._offset += written
        self._live[self._number] = self._live.get(self._number, 0) + 1
        return place

    def take_back(self, place: Place) -> None:
        """Undo the last `append`; on a failing disk the payload stays, unused."""
        if self._descriptor is not None and place.segment == self._number:
            with suppress(OSError):
                os.ftruncate(self._descriptor, place.offset)
                self._offset = place.offset
        self.release(place.segment)

    def read(self, place: Place) -> bytes | None:
        """The payload, or None when it is not whole (a power cut) or its file is gone."""
        try:
            with open(self._file(place.segment), "rb") as file:
                file.seek(place.offset)
                payload = file.read(place.length)
        except FileNotFoundError:
            return None
        return payload if len(payload) == place.length and zlib.crc32(payload) == place.crc else None

    def release(self, segment: int) -> None:
        """One payload of the segment is not wanted any more; its file goes, or empties, with the last one.

        What a failing disk does not let go of goes at the next start.
        """
        self._live[segment] = self._live.get(segment, 1) - 1
        if self._live[segment] > 0:
            return
        del self._live[segment]
        with suppress(OSError):
            if segment != self._number:
                self._drop(segment)
            elif self._descriptor is not None:
                # At once: on a full disk the file would never be filled up and so never go.
                os.ftruncate(self._descriptor, 0)
                self._offset = 0

    def take_unsynced(self) -> list[Path]:
        """What was appended to since the last call, and the folder of new files, for `sync`, outside the lock."""
        paths = [self._file(number) for number in sorted(self._unsynced)]
        if self._new_name:
            paths.append(self._folder)
        self._unsynced.clear()
        self._new_name = False
        return paths

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _next_file(self) -> None:
        self.close()
        self._number += 1

    def _drop(self, number: int) -> None:
        self._unsynced.discard(number)
        atomic.remove(self._file(number))

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:08d}.seg"


def sync(path: Path) -> None:
    """Make a file's content, or a folder's names, durable; one that is gone is fine.

    Raises:
        OSError: the disk refused.
    """
    if path.is_dir():
        atomic.sync_folder(path)
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
