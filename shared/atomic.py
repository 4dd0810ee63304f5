"""Files that are whole or absent: temporary file in the same folder → fsync → rename → fsync of the folder."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from shared.errors import StorageFull

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, durably; a crash leaves the old file or the new one.

    Raises:
        StorageFull: the disk took no more; the old file is untouched.
        OSError: any other refusal of the file system.
    """
    with replacing(path) as file:
        file.write(data)


def write_json(path: Path, value: object) -> None:
    """Replace `path` by `value` as indented JSON; raises like `write_bytes`."""
    write_bytes(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` when the block ends without an error; raises like `write_bytes`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as err:
        remove(temporary)
        told = full_or_same(err, path)
        if told is err:
            raise
        raise told from err
    except BaseException:
        remove(temporary)
        raise


def sync_folder(folder: Path) -> None:
    """Make names that were created or renamed in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def full_or_same(err: OSError, path: Path) -> OSError | StorageFull:
    """`StorageFull` with a remedy when that is what `err` says, else `err` itself."""
    if err.errno in _FULL:
        return StorageFull(f"no space left for {path}: free some space on that disk; what was stored is untouched")
    return err


def remove(path: Path) -> None:
    """Delete a file that may already be gone."""
    with suppress(FileNotFoundError):
        path.unlink()
