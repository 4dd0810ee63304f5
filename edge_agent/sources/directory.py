"""Samples from `.npy` files that appear in a folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event

import numpy as np

from edge_agent.request import Request
from edge_agent.sources.settings import DirectorySettings
from shared import atomic
from shared.errors import SettingsError

log = logging.getLogger(__name__)


def samples(settings: DirectorySettings, stop: Event) -> Iterator[Request]:
    """Each file's array, oldest file first; a slow consumer leaves files lying, none is dropped.

    A file moves to `done/` once its sample was taken, to `failed/` when it is no array. Writers should write under
    another ending and rename: a half-written file counts as failed.

    Raises:
        SettingsError: the folder is not there, or `done/` and `failed/` cannot be made in it.
    """
    if not settings.path.is_dir():
        raise SettingsError(f"the folder {settings.path} does not exist: create it, or correct the source's path")
    done, failed = settings.path / "done", settings.path / "failed"
    for folder in (done, failed):
        try:
            folder.mkdir(exist_ok=True)
        except OSError as err:
            raise SettingsError(f"{folder} cannot be made ({err.strerror}): let the agent write there") from err
    while not stop.is_set():
        for file in _oldest_first(settings.path.glob("*.npy")):
            if stop.is_set():
                return
            request = _read(file, settings)
            if request is None:
                _move(file, failed, settings.keep)
                continue
            yield request
            _move(file, done, settings.keep)
        stop.wait(settings.poll_s)


def _oldest_first(files: Iterable[Path]) -> list[Path]:
    """Without folders, and without what somebody takes away meanwhile."""
    found = []
    for file in files:
        with suppress(FileNotFoundError):
            found.append((file.stat().st_mtime_ns, file.name, file))
    return [file for _, _, file in sorted(found) if file.is_file()]


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
    kept = _oldest_first(folder.iterdir())
    for old in kept[: max(0, len(kept) - keep)]:
        atomic.remove(old)
