"""Samples from `.npy` files that appear in a folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event

import numpy as np

from edge_agent.pipeline import Request
from edge_agent.settings import DirectorySettings
from shared import atomic
from shared.errors import SettingsError

log = logging.getLogger(__name__)


def samples(settings: DirectorySettings, stop: Event) -> Iterator[Request]:
    """Each file's array, oldest file first; a slow consumer leaves files lying, none is dropped.

    A file moves to `done/` once its sample was taken and answered, to `failed/` when it is no array. Writers should
    write under another ending and rename: a half-written file counts as failed.

    Raises:
        SettingsError: the folder is not there.
    """
    if not settings.path.is_dir():
        raise SettingsError(f"the folder {settings.path} does not exist: create it, or correct the source's path")
    done, failed = settings.path / "done", settings.path / "failed"
    for folder in (done, failed):
        folder.mkdir(exist_ok=True)
    while not stop.is_set():
        for file in _waiting(settings.path):
            if stop.is_set():
                return
            request = _read(file, settings)
            if request is None:
                _move(file, failed, settings.keep)
                continue
            yield request
            _move(file, done, settings.keep)
        stop.wait(settings.poll_s)


def _waiting(folder: Path) -> list[Path]:
    files = []
    for file in folder.glob("*.npy"):
        with suppress(FileNotFoundError):
            files.append((file.stat().st_mtime_ns, file.name, file))
    return [file for _, _, file in sorted(files) if file.is_file()]


def _read(file: Path, settings: DirectorySettings) -> Request | None:
    try:
        with open(file, "rb") as opened:
            tensor = np.lib.format.read_array(opened, allow_pickle=False)
    except FileNotFoundError:
        return None
    # A header may claim an array that no memory holds.
    except (OSError, ValueError, EOFError, MemoryError) as err:
        log.error("%s is not a numpy array (%s): moved to failed/", file, err)
        return None
    return Request(
        tensor=tensor,
        reference=file.name,
        training_use=settings.training_use,
        audit_fraction=settings.audit_fraction,
    )


def _move(file: Path, folder: Path, keep: int) -> None:
    with suppress(FileNotFoundError):  # somebody took it away; that is fine
        os.replace(file, folder / file.name)
    kept = sorted(folder.iterdir(), key=lambda entry: entry.stat().st_mtime_ns)
    for old in kept[: max(0, len(kept) - keep)]:
        atomic.remove(old)
