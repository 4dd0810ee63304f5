"""Plays the sources of every task through its pipeline, all side by side."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Protocol

from edge_agent.errors import ModelUnusable
from edge_agent.host.pulse import Pulse
from edge_agent.pipeline import Pipeline
from edge_agent.settings import TaskSettings
from edge_agent.sources.context import SourceContext
from edge_agent.sources.opening import open_source
from edge_agent.sources.settings import SourceSettings, reads_stdin
from shared.errors import SampleError, SettingsError
from shared.mqtt import BrokerSettings

log = logging.getLogger(__name__)

_MAX_SAID = 100
# A sample that takes so much longer than the wait for its verdict hangs, in the model, a hook or the disk.
_HANGS_S = 60.0


class Counts(Protocol):
    """Where samples are counted: the ledger."""

    def count(self, task: str, *names: str) -> None:
        """Add one to each name, as often as it is named."""
        ...


def run_sources(
    pipelines: Mapping[str, Pipeline],
    tasks: Mapping[str, TaskSettings],
    stop: threading.Event,
    *,
    counts: Counts | None = None,
    thin: Callable[[str], int] = lambda _task: 1,
    broker: BrokerSettings | None = None,
    client: str = "edge-agent",
    pulse: Pulse | None = None,
) -> None:
    """Play every source of every task, side by side or a task's in turn; return when all have ended.

    Args:
        counts: told of what came and was no sample, was not taken because of `thin`, or was dropped because the agent
            was slow.
        thin: of how many samples of a task one is to be taken at this moment, source by source; 1: all.
        broker, client: of sources that subscribe: the agent's broker, and how the ids of their connections begin.
        pulse: told of each sample while it is answered, and of nothing while a source waits for one.

    Raises:
        SettingsError: two sources read standard input.
        EdgeloopError: what ended a source too early; the others are stopped first. A fault of our own or of the disk
            comes out as it is.
    """
    if sum(reads_stdin(source) for task in tasks.values() for source in task.sources) > 1:
        raise SettingsError("standard input can feed one source only: leave one of them, or give the others a FIFO")
    failures: list[Exception] = []

    def play(pipeline: Pipeline, settings: SourceSettings, name: str) -> None:
        said = _Said(pipeline.name, name, counts)
        context = SourceContext(
            task=pipeline.name,
            name=name,
            spec=lambda: pipeline.engine.manifest.input,
            broker=broker or BrokerSettings(),
            client=f"{client}-{pipeline.name}",
            thin=lambda: thin(pipeline.name),
            skipped=said.skipped,
            overrun=said.overrun,
            waited=said.waited,
            refused=said.refused,
        )
        try:
            deadline_s = tasks[pipeline.name].deadline_s
            _play_one(pipeline, settings, context, stop, said=said, pulse=pulse or Pulse(), deadline_s=deadline_s)
        except Exception as err:  # noqa: BLE001  # raised below: a thread that dies alone would look like the end
            failures.append(err)
            stop.set()
        said.end()

    def play_all(pipeline: Pipeline, sources: Sequence[tuple[str, SourceSettings]]) -> None:
        for name, settings in sources:
            if not stop.is_set():
                play(pipeline, settings, name)

    threads = [
        threading.Thread(target=play_all, args=(pipelines[task], sources), name=f"{task}-{sources[0][0]}", daemon=True)
        for task, settings in tasks.items()
        for sources in _groups(settings)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _groups(settings: TaskSettings) -> list[list[tuple[str, SourceSettings]]]:
    """A task's sources with their names, those together that one thread plays."""
    named = [(f"{source.kind}-{number}", source) for number, source in enumerate(settings.sources)]
    if not settings.sources_in_turn:
        return [[each] for each in named]
    return [named] if named else []


def _play_one(
    pipeline: Pipeline,
    settings: SourceSettings,
    context: SourceContext,
    stop: threading.Event,
    *,
    said: _Said,
    pulse: Pulse,
    deadline_s: float,
) -> None:
    who = f"task {pipeline.name}, {context.name}"
    with closing(open_source(settings, context, stop)) as requests:
        for request in requests:
            if stop.is_set():
                return
            wait_s = deadline_s if request.deadline_s is None else request.deadline_s
            pulse.expect(who, wait_s + _HANGS_S)
            try:
                pipeline.infer(request)
            except (SampleError, ModelUnusable) as err:
                said.unanswered(err)  # the pipeline counted it; one unusable sample ends nothing
            except Exception:
                stop.set()  # before the source is closed: what it waits for looks at this
                raise
            finally:
                pulse.rest(who)


class _Said:
    """What one source's samples became, counted each time and said once. Called from the source's threads."""

    def __init__(self, task: str, source: str, counts: Counts | None) -> None:
        self._task, self._source, self._counts = task, source, counts
        self._errors: set[str] = set()
        self._overrun = self._waited = 0

    def refused(self, err: SampleError) -> None:
        self._count("inferences", "errors")
        self.unanswered(err)

    def unanswered(self, err: Exception) -> None:
        if str(err) not in self._errors and len(self._errors) < _MAX_SAID:
            self._errors.add(str(err))
            log.error("task %s: %s: a sample could not be answered: %s", self._task, self._source, err)

    def skipped(self, count: int) -> None:
        self._count(*["skipped"] * count)

    def overrun(self, count: int) -> None:
        if not self._overrun:
            log.warning("task %s: %s: the agent is slower; the oldest samples go, counted", self._task, self._source)
        self._overrun += count
        self._count(*["overrun"] * count)

    def waited(self, count: int) -> None:
        if not self._waited:
            log.info("task %s: %s: the agent is slower; samples wait, counted", self._task, self._source)
        self._waited += count
        self._count(*["waited"] * count)

    def end(self) -> None:
        if self._overrun or self._waited:
            log.info(
                "task %s: %s ended: the agent was slower for %d dropped and %d waiting samples",
                self._task,
                self._source,
                self._overrun,
                self._waited,
            )

    def _count(self, *names: str) -> None:
        if self._counts is not None:
            self._counts.count(self._task, *names)
