"""What the cloud's measurements stand on: a quiet Mosquitto, services with a ResNet8 teacher, fleets, and windows.

Each is a process of its own, as in a deployment; all share this machine's cores, and how much of these others used
meanwhile is measured beside everything.
"""

import json
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models import images, resnet8_int8  # noqa: E402  # after the path is set

from tests.harness import Mosquitto, Process, Processes, free_port, wait_until  # noqa: E402  # after the path is set

SITE, TASK = "bench", "images"
_PARTS = Path(__file__).with_name("cloud_parts.py")
_WARM_S = 3.0


class QuietMosquitto(Mosquitto):
    """The harness's, without a line in the log for each packet."""

    def config(self) -> str:
        return super().config().replace("log_type all", "log_type error")


@dataclass(frozen=True)
class Look:
    """What was used and done so far; the difference of two is a window."""

    at: float
    cpu: dict[str, float]
    machine: float
    samples: dict[str, int]
    verdicts: int


@dataclass(frozen=True)
class Window:
    """Between two looks: CPU seconds by process, all verdicts and samples a second, and the cores that others used."""

    seconds: float
    cpu: dict[str, float]
    verdicts: int
    samples: dict[str, int]
    others: float

    @property
    def verdicts_a_second(self) -> float:
        return self.verdicts / self.seconds

    def cpu_us(self, *names: str) -> float:
        """CPU µs a verdict of these processes."""
        return sum(self.cpu[name] for name in names) / max(1, self.verdicts) * 1e6


class Bench:
    """One broker, and what runs around it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes = Processes(folder / "processes")
        self.broker = QuietMosquitto(folder / "mosquitto", max_queued_messages=100_000)
        self.running: dict[str, Process] = {}
        self.ports: dict[str, int] = {}

    def __enter__(self) -> Self:
        self.broker.__enter__()
        self.running["broker"] = self.broker.process
        return self

    def __exit__(self, *error: object) -> None:
        self.processes.close()
        self.broker.__exit__(None, None, None)

    def model(self, side: int) -> Path:
        """A ResNet8 in int8 for pictures of that side."""
        file = self.folder / f"resnet8-{side}.onnx"
        return file if file.exists() else resnet8_int8(file, (side, side, 3))

    def service(
        self, name: str, side: int, *, database: str = "", data: str = "", more: tuple[str, ...] = ()
    ) -> Process:
        """Start `edgeloop serve`; `data`: of which other service it shares the folder."""
        self.ports[name] = free_port()
        config = self.folder / f"{data or name}.toml"
        config.write_text(self._settings(side, data or name, database))
        options = [f"http.port={self.ports[name]}", f"ingest.instance={name}", *more]
        arguments = [part for option in options for part in ("--set", option)]
        process = self.processes.service(config, *arguments, "--log-level", "warning", name=name)
        wait_until(lambda: self.health(name).get("broker") == "up", timeout=60, what=f"the service {name} is up")
        self.running[name] = process
        return process

    def end(self, name: str) -> None:
        """Stop a service or another process."""
        self.running.pop(name).stop()
        self.ports.pop(name, None)

    def spawn(self, name: str, *arguments: str) -> Process:
        """Start a part of `cloud_parts.py`."""
        process = self.processes.spawn(name, [sys.executable, str(_PARTS), *arguments])
        self.running[name] = process
        return process

    def health(self, name: str) -> dict:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[name]}/healthz", timeout=10) as answer:
                return dict(json.load(answer))
        except OSError:
            return {}

    @contextmanager
    def fleet(self, side: int, *, devices: int, per_s: float, keep: int = 64, **options: str) -> Iterator["Fleet"]:
        """`edgeloop simulate` until the block ends; its connections are open when the block begins."""
        given = {"site": SITE, "task": TASK, "shape": f"{side},{side},3", "broker": f"127.0.0.1:{self.broker.port}"}
        given |= {"devices": str(devices), "rate": str(per_s / devices), "duration": "3600", "keep": str(keep)}
        given |= {"resend-after": "20", "ramp": "1000", "drain": "0", **options}
        arguments = [part for key, value in given.items() for part in (f"--{key}", value)]
        journal = self.folder / f"journal-{time.monotonic_ns()}"
        process = self.processes.edgeloop("simulate", *arguments, "--json", "--journal", str(journal), name="fleet")
        self.running["fleet"] = process
        try:
            wait_until(lambda: journal.exists() and journal.stat().st_size > 0, timeout=120, what="samples come")
            fleet = Fleet(process)
            yield fleet
        finally:
            process_id = self.running.pop("fleet").pid
            for _ in range(2):
                os.kill(process_id, signal.SIGINT)
                time.sleep(0.3)
            process.wait(timeout=60)
            journal.unlink(missing_ok=True)

    def look(self) -> Look:
        cpu = {}
        for name, process in self.running.items():
            tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            cpu[name] = sum(sum(each.cpu_times()[:2]) for each in tree)
        counts = {name: self.health(name)["counts"] for name in self.ports}
        times = psutil.cpu_times()
        machine = sum(times) - times.idle - times.iowait - times.guest - times.guest_nice
        samples = {name: each["samples"] for name, each in counts.items()}
        return Look(time.monotonic(), cpu, machine, samples, sum(each["verdicts"] for each in counts.values()))

    def window(self, seconds: float, *, warm_s: float = _WARM_S) -> Window:
        """What happens in the next seconds, after some to get warm."""
        time.sleep(warm_s)
        before = self.look()
        time.sleep(seconds)
        after = self.look()
        cpu = {name: after.cpu[name] - before.cpu[name] for name in after.cpu}
        took = after.at - before.at
        others = max(0.0, after.machine - before.machine - sum(cpu.values())) / took
        samples = {name: after.samples[name] - before.samples[name] for name in after.samples}
        return Window(took, cpu, after.verdicts - before.verdicts, samples, others)

    def memory_mb(self, name: str) -> float:
        """Resident memory of a process and its children."""
        process = psutil.Process(self.running[name].pid)
        return sum(each.memory_info().rss for each in (process, *process.children(recursive=True))) / 1e6

    def offline(self, side: int, *, batch: int, seconds: float) -> dict[str, float]:
        """The teacher alone, as fast as it goes: samples a second and CPU µs a sample."""
        process = self.spawn("offline", "offline", str(self.model(side)), str(side), str(batch), str(seconds))
        del self.running["offline"]
        process.wait(timeout=seconds + 60)
        found: dict[str, float] = json.loads(process.log_text().splitlines()[-1])
        return found

    def _settings(self, side: int, name: str, database: str) -> str:
        base = self.folder / f"base-{side}.npz"
        if not base.exists():
            x, y = images((side, side, 3), 32), np.arange(32) % 10
            np.savez(base, x=x, y=y, x_eval=x, y_eval=y)
        labels = json.dumps([f"class-{index}" for index in range(10)])
        return (
            f'site = "{SITE}"\ndata_dir = "data-{name}"\n'
            f"[broker]\nport = {self.broker.port}\n"
            + (f'[database]\nurl = "{database}"\n' if database else "")
            + f'[tasks.{TASK}]\nlabels = {labels}\ninput_shape = [{side}, {side}, 3]\ninput_dtype = "uint8"\n'
            f'teacher = "{self.model(side)}"\nbase_data = "{base}"\n'
        )


class Fleet:
    """A running `edgeloop simulate`."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._before = len(process.log_text())

    def report(self) -> dict:
        """Its report, after the end."""
        text = self.process.log_text()
        return dict(json.loads(text[text.index("\n{") :]))
