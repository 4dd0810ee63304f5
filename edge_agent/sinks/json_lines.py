"""Outcomes as JSON lines, in a file that rotates or on standard output."""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
from contextlib import suppress

from edge_agent.outcomes import Correction, Outcome
from edge_agent.sinks.records import Record, to_json
from edge_agent.sinks.settings import OutcomeSettings

log = logging.getLogger(__name__)


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
        self._write(outcome)

    def correction(self, correction: Correction) -> None:
        self._write(correction)

    def close(self) -> None:
        with self._lock:
            if not self._to_stdout and self._descriptor is not None:
                os.close(self._descriptor)
            self._descriptor = None

    def _write(self, record: Record) -> None:
        line = to_json(record) + "\n"
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
