"""Plays the sources of every task through its pipeline."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping

from edge_agent.errors import ModelUnusable
from edge_agent.pipeline import Pipeline
from edge_agent.request import Request
from edge_agent.settings import TaskSettings
from edge_agent.sources.opening import open_source
from shared.errors import SampleError

log = logging.getLogger(__name__)

_MAX_SAID = 100


def run_sources(pipelines: Mapping[str, Pipeline], tasks: Mapping[str, TaskSettings], stop: threading.Event) -> None:
    """Play each task's sources, one after the other, each task in a thread of its own; return when all have ended.

    Raises:
        EdgeloopError: what ended a task's sources too early; the other tasks are stopped first. A fault of our own or
            of the disk comes out as it is.
    """
    failures: list[Exception] = []

    def play(pipeline: Pipeline, settings: TaskSettings) -> None:
        try:
            for source in settings.sources:
                _play_one(pipeline, open_source(source, stop), stop)
        except Exception as err:  # noqa: BLE001  # raised below: a thread that dies alone would look like the end
            failures.append(err)
            stop.set()

    threads = [
        threading.Thread(target=play, args=(pipelines[name], settings), name=f"source-{name}", daemon=True)
        for name, settings in tasks.items()
        if settings.sources
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _play_one(pipeline: Pipeline, requests: Iterator[Request], stop: threading.Event) -> None:
    said: set[str] = set()
    for request in requests:
        if stop.is_set():
            return
        try:
            pipeline.infer(request)
        except (SampleError, ModelUnusable) as err:
            # One unusable sample ends nothing; each kind is said once, the ledger counts them all.
            if str(err) not in said and len(said) < _MAX_SAID:
                said.add(str(err))
                log.error("task %s: a sample could not be answered: %s", pipeline.name, err)
