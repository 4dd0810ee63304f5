"""Operating system processes under test: started by command line, logged to a file, ended by their own id."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.harness.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]

STOP_TIMEOUT_S = 20.0


class Process:
    """One command. Its output (both streams) is appended to `log`; start() may be called again after its end."""

    def __init__(self, name: str, argv: Sequence[str], *, folder: Path, env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.argv = list(argv)
        self.folder = folder
        self.env = dict(env or {})
        self.log = folder / f"{name}.log"
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        if self.running:
            raise RuntimeError(f"{self.name} runs already")
        self.folder.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        env = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **self.env}
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                self.argv,
                cwd=self.folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    @property
    def pid(self) -> int:
        return self._require().pid

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def returncode(self) -> int | None:
        return self._require().poll()

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait_for_log(self, text: str, *, timeout: float = 30.0) -> None:
        """Wait until the log has `text`; fails at once, with the log's end, when the process ends without saying it."""

        def said() -> bool:
            if text in self.log_text():
                return True
            if not self.running:
                raise AssertionError(
                    f"{self.name} ended with {self.returncode} before it said {text!r}:\n{self.log_text()[-3000:]}"
                )
            return False

        wait_until(
            said, timeout=timeout, what=f"{self.name} says {text!r}; its log ends with:\n{self.log_text()[-2000:]}"
        )

    def wait(self, *, timeout: float = 60.0) -> int:
        """Wait for its own end; returns the exit code."""
        wait_until(lambda: not self.running, timeout=timeout, what=f"{self.name} ends by itself")
        return int(self._require().wait())

    def stop(self, *, timeout: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM and wait. Fails when it has to be killed. Returns the exit code."""
        popen = self._require()
        if self.running:
            popen.terminate()
            try:
                popen.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill_group()
                raise AssertionError(
                    f"{self.name} did not end within {timeout:g} s of SIGTERM:\n{self.log_text()[-3000:]}"
                ) from None
        return int(popen.wait())

    def kill(self) -> None:
        """SIGKILL to this process alone, as a crash would; its children live on."""
        popen = self._require()
        if self.running:
            popen.kill()
        popen.wait()

    def kill_group(self) -> None:
        """SIGKILL to it and all its children, as a power cut would."""
        popen = self._require()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)
        popen.wait()

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._popen is None:
            return
        if self.running:
            self._popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(STOP_TIMEOUT_S)
        self.kill_group()

    def _require(self) -> subprocess.Popen[bytes]:
        if self._popen is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._popen


class Processes:
    """The processes of one test; `close` ends all, newest first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.all: list[Process] = []

    def spawn(self, name: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> Process:
        """Start any command. A name that is taken gets a number behind it."""
        taken = {process.name for process in self.all}
        unique = next(n for n in (name, *(f"{name}-{i}" for i in range(2, 100))) if n not in taken)
        process = Process(unique, argv, folder=self.folder, env=env)
        self.all.append(process)
        return process.start()

    def edge_agent(self, *args: str, name: str = "edge-agent", env: Mapping[str, str] | None = None) -> Process:
        """`edge-agent ARGS…` with this interpreter."""
        return self.spawn(name, python_entry("edge_agent.cli", "edge-agent", args), env=env)

    def edgeloop(self, *args: str, name: str = "edgeloop", env: Mapping[str, str] | None = None) -> Process:
        """`edgeloop ARGS…` with this interpreter."""
        return self.spawn(name, python_entry("cloud_service.cli", "edgeloop", args), env=env)

    def agent(self, config: Path, *args: str, name: str = "agent", env: Mapping[str, str] | None = None) -> Process:
        """`edge-agent run --config CONFIG ARGS…`."""
        return self.edge_agent("run", "--config", str(config), *args, name=name, env=env)

    def service(self, config: Path, *args: str, name: str = "service", env: Mapping[str, str] | None = None) -> Process:
        """`edgeloop serve --config CONFIG ARGS…`."""
        return self.edgeloop("serve", "--config", str(config), *args, name=name, env=env)

    def close(self) -> None:
        for process in reversed(self.all):
            process.__exit__(None, None, None)

    def tails(self, limit: int = 3000) -> str:
        """The end of every log, for the report of a failed test."""
        return "\n".join(f"--- {p.name} ({p.returncode}) {p.log}\n{p.log_text()[-limit:]}" for p in self.all)


def python_entry(module: str, program: str, args: Sequence[str]) -> list[str]:
    """A console script of ours, whether or not the project is installed."""
    code = f"import sys; sys.argv[0] = {program!r}; from {module} import main; sys.exit(main())"
    return [sys.executable, "-c", code, *args]
