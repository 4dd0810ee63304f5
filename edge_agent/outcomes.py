"""What the agent tells the world of each sample: an outcome at once, a correction when a verdict comes later."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from edge_agent.settings import OutcomeSettings
from shared.messages import Action, Reason

log = logging.getLogger(__name__)


class AnsweredBy(StrEnum):
    """Whose answer an outcome carries."""

    EDGE = "edge"
    CLOUD = "cloud"
    EDGE_AFTER_DEADLINE = "edge_after_deadline"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to one sample.

    Attributes:
        prediction: index of `label`; `edge_prediction` is the edge's own, which a verdict within the deadline replaces.
        confidence: the answering side's probability of it.
        hardness: the edge's score.
        reference: what the caller or source gave to know the sample by.
        infer_us: the model's run; `total_us`: all of `infer`, a wait for the verdict included.
    """

    sample_id: UUID
    task: str
    seq: int
    label: str
    prediction: int
    confidence: float
    answered_by: AnsweredBy
    edge_prediction: int
    hardness: float
    action: Action
    reason: Reason
    bundle_version: str
    reference: int | str | None
    infer_us: float
    total_us: float


@dataclass(frozen=True, slots=True)
class Correction:
    """A verdict on a sample that was answered already.

    Attributes:
        agreed: the edge had said the same.
        reference: as in the outcome; None after a restart in between.
    """

    sample_id: UUID
    task: str
    seq: int
    label: str
    prediction: int
    confidence: float
    agreed: bool
    bundle_version: str
    teacher: str
    reference: int | str | None


class Sink(Protocol):
    """Takes what the agent has to tell; called from the thread that ran the sample, or the uplink's."""

    def outcome(self, outcome: Outcome) -> None: ...

    def correction(self, correction: Correction) -> None: ...

    def close(self) -> None: ...


class CallbackSink:
    """Hands each record to a function of the embedding program; what that raises is logged, once a kind."""

    def __init__(
        self, on_outcome: Callable[[Outcome], None] | None, on_correction: Callable[[Correction], None] | None
    ) -> None:
        self._on_outcome = on_outcome
        self._on_correction = on_correction
        self._said: set[type[BaseException]] = set()

    def outcome(self, outcome: Outcome) -> None:
        self._call(self._on_outcome, outcome)

    def correction(self, correction: Correction) -> None:
        self._call(self._on_correction, correction)

    def close(self) -> None:
        """Nothing to let go."""

    def _call(self, function: Callable[[Any], None] | None, record: object) -> None:
        if function is None:
            return
        try:
            function(record)
        except Exception as err:  # the embedding program's own code: its mistakes must not stop the device
            if type(err) not in self._said:
                self._said.add(type(err))
                log.exception("the program's callback raised; more of this kind are not logged")


class JsonLinesSink:
    """One JSON object a line; a full disk costs records, said once, never the inference."""

    def __init__(self, settings: OutcomeSettings) -> None:
        if settings.path is None:
            raise ValueError("a JSON lines sink needs a path")
        self._path = settings.path
        self._max_bytes = settings.max_bytes
        self._lock = threading.Lock()
        self._failing = False
        self._to_stdout = str(settings.path) == "-"
        self._descriptor: int | None = sys.stdout.fileno() if self._to_stdout else self._open()

    def outcome(self, outcome: Outcome) -> None:
        self._write("outcome", asdict(outcome))

    def correction(self, correction: Correction) -> None:
        self._write("correction", asdict(correction))

    def close(self) -> None:
        with self._lock:
            if not self._to_stdout and self._descriptor is not None:
                os.close(self._descriptor)
            self._descriptor = None

    def _write(self, kind: str, record: dict[str, Any]) -> None:
        record["sample_id"] = str(record["sample_id"])
        line = json.dumps({"kind": kind, **record}, separators=(",", ":")) + "\n"
        with self._lock:
            if self._descriptor is None:
                return
            try:
                self._append(self._descriptor, line.encode())
            except OSError as err:
                if not self._failing:
                    log.error(
                        "outcomes are not written to %s (%s): free some space; inference goes on", self._path, err
                    )
                self._failing = True
                return
            if self._failing:
                log.info("outcomes are written to %s again", self._path)
            self._failing = False

    def _append(self, descriptor: int, line: bytes) -> None:
        if self._to_stdout:
            os.write(descriptor, line)
            return
        if os.fstat(descriptor).st_size >= self._max_bytes:
            descriptor = self._rotate()
        end = os.fstat(descriptor).st_size
        if os.write(descriptor, line) != len(line):
            os.ftruncate(descriptor, end)
            raise OSError(errno.ENOSPC, "no space left on device")

    def _rotate(self) -> int:
        with suppress(FileNotFoundError):  # moved by an earlier try, after which no new file could be made
            os.replace(self._path, self._path.with_name(self._path.name + ".1"))
        newer = self._open()
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = newer
        return newer

    def _open(self) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


class Sinks:
    """All sinks as one."""

    def __init__(self, sinks: tuple[Sink, ...]) -> None:
        self._sinks = sinks

    def outcome(self, outcome: Outcome) -> None:
        for sink in self._sinks:
            sink.outcome(outcome)

    def correction(self, correction: Correction) -> None:
        for sink in self._sinks:
            sink.correction(correction)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()


class InOrder:
    """Tells an outcome before its correction: a fast cloud answers before the device has spoken. Thread-safe."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._lock = threading.Lock()
        self._held: dict[UUID, Correction | None] = {}

    def expect(self, sample_id: UUID) -> None:
        """This sample's outcome will be told; hold a correction back until then."""
        with self._lock:
            self._held[sample_id] = None

    def outcome(self, outcome: Outcome) -> None:
        self._sink.outcome(outcome)
        with self._lock:
            correction = self._held.pop(outcome.sample_id, None)
        if correction is not None:
            self._sink.correction(correction)

    def correction(self, correction: Correction) -> None:
        with self._lock:
            held = correction.sample_id in self._held
            if held:
                self._held[correction.sample_id] = correction
        if not held:
            self._sink.correction(correction)


def open_sinks(
    settings: OutcomeSettings,
    on_outcome: Callable[[Outcome], None] | None,
    on_correction: Callable[[Correction], None] | None,
) -> Sinks:
    """The sinks that the settings and the embedding program ask for."""
    sinks: list[Sink] = []
    if on_outcome or on_correction:
        sinks.append(CallbackSink(on_outcome, on_correction))
    if settings.path is not None:
        sinks.append(JsonLinesSink(settings))
    return Sinks(tuple(sinks))
