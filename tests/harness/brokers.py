"""The two brokers as tests use them: same face, a free loopback port, ended by their own process id."""

import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.harness.processes import Process, python_entry
from tests.harness.waiting import accepts, free_port, wait_until

HOST = "127.0.0.1"
START_TIMEOUT_S = 15.0
# What `edgeloop broker` says once it serves.
_READY = "listening on "

NO_MOSQUITTO = "Mosquitto is not installed; type: sudo apt-get install mosquitto"


def find_mosquitto() -> str | None:
    """The broker's program; Debian keeps it in /usr/sbin, which is not on every PATH."""
    return shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


class _Broker:
    """What both have in common; a subclass says which command."""

    name = ""

    def __init__(self, folder: Path, *, port: int | None = None) -> None:
        self.folder = folder
        self.host = HOST
        self.port = port or free_port()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process = Process(self.name, self._argv(), folder=folder)

    def _argv(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> Self:
        self.process.start()

        def listens() -> bool:
            assert self.process.running, f"{self.name} ended with {self.process.returncode}:\n{self.log_text()[-2000:]}"
            return self._is_ready()

        wait_until(listens, timeout=START_TIMEOUT_S, what=f"{self.name} listens on port {self.port}")
        return self

    def _is_ready(self) -> bool:
        return accepts(self.port)

    def stop(self) -> None:
        """SIGTERM; Mosquitto saves its state first."""
        self.process.stop()

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        self.process.kill()

    def restart(self) -> None:
        """Stop and start on the same port."""
        self.stop()
        self.start()

    def log_text(self) -> str:
        return self.process.log_text()

    def __enter__(self) -> Self:
        return self if self.process.running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.__exit__(kind, err, trace)


class Mosquitto(_Broker):
    """A Mosquitto of its own; its state is in `folder` and survives stop, start and kill."""

    name = "mosquitto"

    def __init__(
        self, folder: Path, *, port: int | None = None, max_queued_messages: int = 10_000, extra: str = ""
    ) -> None:
        """`extra`: further lines of mosquitto.conf."""
        self.max_queued_messages = max_queued_messages
        self.extra = extra
        super().__init__(folder, port=port)

    def _argv(self) -> list[str]:
        program = find_mosquitto()
        if program is None:
            raise RuntimeError(NO_MOSQUITTO)
        config = self.folder / "mosquitto.conf"
        config.write_text(self.config())
        return [program, "-c", str(config)]

    def config(self) -> str:
        lines = [
            f"listener {self.port} {self.host}",
            "allow_anonymous true",
            "set_tcp_nodelay true",
            "max_inflight_messages 100",
            f"max_queued_messages {self.max_queued_messages}",
            "persistence true",
            f"persistence_location {self.folder}/",
            "autosave_interval 1",
            "log_dest stdout",
            "log_type all",
        ]
        if os.geteuid() == 0:
            lines.append("user root")  # else it drops to a user that may not write into the test's folder
        return "\n".join([*lines, self.extra]) + "\n"


class EmbeddedBroker(_Broker):
    """`edgeloop broker --port PORT`, in a process of its own."""

    name = "embedded-broker"
    _said_before = 0

    def _argv(self) -> list[str]:
        return python_entry("cloud_service.cli", "edgeloop", ["broker", "--port", str(self.port)])

    def start(self) -> Self:
        self._said_before = self.log_text().count(_READY)
        return super().start()

    def _is_ready(self) -> bool:
        # Not the open port: whoever connects before the broker says so may be served slowly.
        return self.log_text().count(_READY) > self._said_before
