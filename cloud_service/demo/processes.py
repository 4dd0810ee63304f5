"""The demo's processes: each started by its own command line, logged to a file, ended by its id and in order."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from shared.errors import EdgeloopError

_STOP_TIMEOUT_S = 10.0
# One thread each: three devices, a service and a training run share the machine.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


class ProcessFailed(EdgeloopError):
    """A part of the demo ended when it should not have; the message shows the end of its log."""


class Processes:
    """Starts commands and ends them all, last started first, when the block ends."""

    def __init__(self, log_folder: Path) -> None:
        self._folder = log_folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *arguments: str) -> None:
        """Run `python -m …` under this interpreter; its output goes to `<name>.log`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_ENVIRONMENT},
                start_new_session=True,
            )

    def check(self) -> None:
        """Raises:
        ProcessFailed: one of them has ended.
        """
        for name, process in self._running.items():
            code = process.poll()
            if code is not None:
                raise ProcessFailed(
                    f"{name} ended with code {code}; its log {self.log(name)} ends with:\n{self.tail(name)}"
                )

    def stop(self, names: Sequence[str]) -> None:
        """End these in order (SIGTERM), or by force when they take too long."""
        stopping = [self._running.pop(name) for name in names if name in self._running]
        for process in stopping:
            process.send_signal(signal.SIGTERM)
        until = time.monotonic() + _STOP_TIMEOUT_S
        for process in stopping:
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def log(self, name: str) -> Path:
        """Where a process's output goes."""
        return self._folder / f"{name}.log"

    def tail(self, name: str, lines: int = 12) -> str:
        """The end of a process's output."""
        return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-lines:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in reversed(list(self._running)):
            self.stop([name])


def end_in_order_when_told() -> None:
    """Let SIGTERM and SIGHUP (a closed terminal) leave through the `with` blocks.

    The processes have sessions of their own and would live on.
    """

    def leave(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)


def free_port() -> int:
    """A loopback TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
