"""A replica's own name, stable over restarts and different from every other's, without a setting anywhere.

Names lie in `data_dir/instances/`, one file each, and a replica holds a lock on the one that it uses. The first that is
free is taken; where none is, one is made. So a replica that is restarted finds its name and its broker sessions again,
and two on one folder, or on a folder each, never share a name.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared import atomic
from shared.errors import SettingsError

_FOLDER = "instances"
# "a" and eight random digits: a name may not begin with a dot or a dash, and 2^32 are enough for a fleet of services.
_RANDOM_BYTES = 4


@contextmanager
def own_name(data_dir: Path, given: str | None = None) -> Iterator[str]:
    """This replica's name, and a lock on it while the block runs; the system lets go of it when the process dies.

    Args:
        given: somebody's choice, which is taken as it is.

    Raises:
        SettingsError: the folder cannot be written.
        StorageFull: there is no room for the name's file.
    """
    if given is not None:
        yield given
        return
    folder = data_dir / _FOLDER
    try:
        descriptor, name = _taken(folder)
    except OSError as err:
        raise SettingsError(
            f"cannot keep this replica's name in {folder}: {err.strerror}; let the service's user write there, or set "
            "data_dir to a folder where it may"
        ) from err
    try:
        yield name
    finally:
        os.close(descriptor)


def _taken(folder: Path) -> tuple[int, str]:
    folder.mkdir(parents=True, exist_ok=True)
    taken = _first_free(folder)
    while taken is None:
        atomic.write_bytes(folder / f"r{secrets.token_hex(_RANDOM_BYTES)}", b"")
        taken = _first_free(folder)
    return taken


def _first_free(folder: Path) -> tuple[int, str] | None:
    for file in sorted(folder.glob("r*")):
        descriptor = os.open(file, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
        else:
            return descriptor, file.name
    return None
