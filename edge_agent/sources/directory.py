"""Samples from files that appear in a folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Event

from edge_agent.decoding import preprocess
from edge_agent.decoding.preprocess import ENDINGS, Form
from edge_agent.sources.context import Captured, SourceContext
from edge_agent.sources.settings import DirectorySettings
from shared import atomic
from shared.codec import Array
from shared.errors import SampleError, SettingsError
from shared.manifest import TensorSpec

log = logging.getLogger(__name__)


def samples(settings: DirectorySettings, context: SourceContext, stop: Event) -> Generator[Captured, None, None]:
    """Each file's sample, oldest file first; a slow consumer leaves files lying, none is dropped.

    A file moves to `done/` once its sample was taken, to `failed/` when it is no sample of the task. Writers should
    write under another ending and rename: a half-written file counts as failed.

    Raises:
        SettingsError: the folder is not there, or `done/` and `failed/` cannot be made in it.
    """
    done, failed = _prepared(settings.path)
    endings = _readable(context.name)
    while not stop.is_set():
        for file in _oldest_first(each for each in settings.path.iterdir() if each.suffix.lower() in endings):
            if stop.is_set():
                return
            if not file.exists():
                continue  # somebody took it away; that is fine
            lying = _File(file)
            yield Captured(lying.decode, file.name)
            _move(file, failed if lying.refused else done, settings.keep)
        stop.wait(settings.poll_s)


class _File:
    """Remembers whether it was no sample."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.refused = False

    def decode(self, spec: TensorSpec) -> Array:
        form = ENDINGS[self._path.suffix.lower()]
        try:
            with open(self._path, "rb") as file:
                body = file.read(preprocess.max_bytes(form, spec) + 1)
            return preprocess.decode(body, form, spec)
        except (OSError, SampleError) as err:
            self.refused = True
            raise SampleError(f"{self._path.name} was moved to failed/: {err}") from err


def _prepared(folder: Path) -> tuple[Path, Path]:
    if not folder.is_dir():
        raise SettingsError(f"the folder {folder} does not exist: create it, or correct the source's path")
    done, failed = folder / "done", folder / "failed"
    for below in (done, failed):
        try:
            below.mkdir(exist_ok=True)
        except OSError as err:
            raise SettingsError(f"{below} cannot be made ({err.strerror}): let the agent write there") from err
    return done, failed


def _readable(name: str) -> set[str]:
    if find_spec("PIL") is not None:
        return set(ENDINGS)
    log.info("%s: images are left lying, reading them needs Pillow: pip install 'edgeloop[images]'", name)
    return {ending for ending, form in ENDINGS.items() if form is not Form.IMAGE}


def _oldest_first(files: Iterable[Path]) -> list[Path]:
    """Without folders, and without what somebody takes away meanwhile."""
    found = []
    for file in files:
        with suppress(FileNotFoundError):
            found.append((file.stat().st_mtime_ns, file.name, file))
    return [file for _, _, file in sorted(found) if file.is_file()]


def _move(file: Path, folder: Path, keep: int) -> None:
    with suppress(FileNotFoundError):  # somebody took it away; that is fine
        os.replace(file, folder / file.name)
    kept = _oldest_first(folder.iterdir())
    for old in kept[: max(0, len(kept) - keep)]:
        atomic.remove(old)
