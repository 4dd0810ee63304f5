"""A lighter model of a task, which stands in for its own while the device is under pressure."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from edge_agent.execution.engine import Engine
from edge_agent.execution.loading import EngineLoader
from edge_agent.pipeline import Pipeline
from shared import bundle
from shared.errors import BundleError, StorageFull
from shared.manifest import Manifest

log = logging.getLogger(__name__)


class SmallModel:
    """Unpacks, loads and hands over a task's `small_bundle`; it takes no memory while it is not used."""

    def __init__(self, pipeline: Pipeline, file: Path | None, folder: Path, *, load: EngineLoader) -> None:
        self._pipeline, self._file, self._folder, self._open = pipeline, file, folder, load
        self._said = ""

    def use(self) -> None:
        """Let it answer; a bundle that cannot be used is said once, and the task's own model goes on."""
        if self._file is None or self._pipeline.stand_in is not None:
            return
        try:
            engine = self._load(self._file)
        except (BundleError, StorageFull, OSError) as err:
            if str(err) != self._said:
                self._said = str(err)
                log.error("task %s: the small bundle %s cannot be used: %s", self._pipeline.name, self._file, err)
            return
        self._pipeline.let_stand_in(engine)
        log.info("task %s: the smaller model %s answers", self._pipeline.name, engine.manifest.version)

    def give_way(self) -> None:
        """Let the task's own model answer again."""
        if self._pipeline.stand_in is not None:
            self._pipeline.let_stand_in(None)
            log.info("task %s: the model %s answers again", self._pipeline.name, self._pipeline.engine.manifest.version)

    def _load(self, file: Path) -> Engine:
        info = bundle.inspect(file)
        _check(info.manifest, self._pipeline.engine.manifest)
        # From the file each time: what lies unpacked may be an older one, and pressure is rare.
        shutil.rmtree(self._folder, ignore_errors=True)
        bundle.unpack(file, self._folder)
        return self._open(self._folder, sha256=info.sha256)


def _check(small: Manifest, own: Manifest) -> None:
    if (small.task, small.labels, small.input) != (own.task, own.labels, own.input):
        raise BundleError(
            f"it is for the task {small.task!r} with {len(small.labels)} labels and {list(small.input.shape)} "
            f"{small.input.dtype}; it must take and tell what {own.version} does"
        )
