"""Lines that fail (nobody there, somebody silent, one that is cut again and again), and how late a machine is.

Whatever runs all the time is a process of its own: in the test's it would take the interpreter from what is measured.
"""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.harness.brokers import EmbeddedBroker, Mosquitto
from tests.harness.processes import Process
from tests.harness.waiting import accepts, free_port, wait_until


@contextmanager
def silent_server() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:  # the system accepts, nobody else does
        yield int(server.getsockname()[1])


@contextmanager
def standing_still(broker: EmbeddedBroker | Mosquitto) -> Iterator[None]:
    """The broker neither reads nor writes, as behind a line that is cut without a word."""
    os.kill(broker.process.pid, signal.SIGSTOP)
    try:
        # A signal that is sent has not arrived: on another core the broker may still answer.
        os.waitid(os.P_PID, broker.process.pid, os.WSTOPPED)
        yield
    finally:
        os.kill(broker.process.pid, signal.SIGCONT)


@contextmanager
def cut_again_and_again(port: int, folder: Path, *, every_s: float) -> Iterator[int]:
    """A port that leads to another one; each connection is cut after `every_s`."""
    way = free_port()
    with Process("cutting", [sys.executable, __file__, "cut", str(way), str(port), str(every_s)], folder=folder):
        wait_until(lambda: accepts(way), timeout=15, what="the line is there")
        yield way


@contextmanager
def lateness(folder: Path) -> Iterator["Lateness"]:
    """How late the machine itself lets somebody go on who sleeps for 5 ms."""
    file = folder / "lateness"
    with Process("lateness", [sys.executable, __file__, "sleep", str(file)], folder=folder):
        wait_until(file.exists, timeout=15, what="the machine is watched")
        yield Lateness(file)


class Lateness:
    """Read `worst_ms` at any time."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @property
    def worst_ms(self) -> float:
        return float(self._file.read_text())


async def _cut(way: int, port: int, every_s: float) -> None:
    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(every_s):
                await asyncio.gather(pump(reader, back), pump(there, writer))
        for end in (writer, back):
            end.transport.abort()

    async with await asyncio.start_server(carry, "127.0.0.1", way) as server:
        await server.serve_forever()


def _watch(file: Path) -> None:
    worst_s, new = 0.0, file.with_name(f"{file.name}.new")
    while True:
        began = time.perf_counter()
        time.sleep(0.005)
        late_s = time.perf_counter() - began - 0.005
        if late_s > worst_s:
            worst_s = late_s
            new.write_text(f"{worst_s * 1000:.3f}")
            new.replace(file)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["cut", way, port, every_s]:
            asyncio.run(_cut(int(way), int(port), float(every_s)))
        case ["sleep", file]:
            _watch(Path(file))
