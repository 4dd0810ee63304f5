"""The demo's story, chapter by chapter, and what each chapter waits for; it only orchestrates and watches."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cloud_service.client import Client
from cloud_service.demo.data import DemoData
from cloud_service.demo.evidence import Scene
from cloud_service.demo.journal import DeviceJournal, follow
from cloud_service.demo.processes import Processes, ProcessFailed, free_port
from cloud_service.demo.snapshot import look
from cloud_service.demo.stage import SITE, TASK, Device, Ports, set_stage
from cloud_service.demo.view import Screen
from cloud_service.training.progress import parse
from shared.errors import EdgeloopError, FrameError

_POLL_S = 0.25
_AFTER = "the devices meet the held-out field images again"
_FACTORY = "the factory trains the teacher and its student"
_LIMITS_S = {"launch": 60, "before": 120, "stream": 180, "learn": 600, "update": 120, "after": 180, "settle": 20}


class DemoFailed(EdgeloopError):
    """The demo did not get where it should; the message says how far it got and where the logs are."""


class Story:
    """The story's state: where it happens, who takes part, what was seen so far."""

    def __init__(
        self, folder: Path, data: DemoData, *, seed: int, split: str, screen: Screen, processes: Processes
    ) -> None:
        self.folder, self.data, self.seed, self.split = folder, data, seed, split
        self.screen, self.processes = screen, processes
        self.ports = Ports(free_port(), free_port())
        self.client = Client(f"http://127.0.0.1:{self.ports.http}")
        self.journals: list[DeviceJournal] = []
        self.stage_seconds: dict[str, float] = {}
        self.job: dict[str, Any] | None = None
        self.factory_version = ""
        self.began = time.monotonic()
        self.devices_began = self.began

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    # The chapters, in order.

    def build_factory(self) -> None:
        """Train the teacher and the factory's student in a process of their own."""
        command = [sys.executable, "-m", "cloud_service.demo.factory", str(self.folder)]
        command += ["--seed", str(self.seed), "--split", self.split]
        began = self.seconds
        self.processes.log("factory").parent.mkdir(parents=True, exist_ok=True)
        bars: dict[str, dict[str, Any]] = {}
        self._show(_FACTORY, job=None)
        with self.processes.log("factory").open("wb") as log:
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        with child:
            try:
                for line in child.stdout or ():
                    try:
                        step = parse(line)
                    except FrameError:
                        continue
                    bars[step.stage] = step.model_dump()
                    self._show(_FACTORY, job={"progress": bars})
            except BaseException:  # Ctrl-C, or anything else: the factory must not go on alone
                child.terminate()
                raise
        if child.returncode:
            raise ProcessFailed(f"the factory ended with {child.returncode}:\n{self.processes.tail('factory')}")
        self.stage_seconds["factory"] = self.seconds - began

    def launch(self, devices: int) -> None:
        """Start the broker, the service and the devices, each by its own command line."""
        service, fleet = set_stage(self.folder, self.data, devices=devices, ports=self.ports)
        self.processes.start("broker", "cloud_service.cli", "broker", "--port", str(self.ports.broker))
        self.processes.start("service", "cloud_service.cli", "serve", "--config", str(service))
        self._until("launch", "the service starts", self._service_is_up)
        pushed = self.client.upload_bundle(self.folder / "factory.bundle")
        self.factory_version = pushed["version"]
        for device in fleet:
            self._start(device)
        self.journals = follow(fleet)
        self.devices_began = time.monotonic()

    def wait_for_before(self) -> None:
        """Every held-out image was met once by the factory's student."""
        self._until("before", "the devices meet held-out field images: answered, never kept", self._stream_has_begun)

    def wait_for_stream(self) -> None:
        """Every image of the stream was met, and every one that went up was answered."""
        self._until(
            "stream", "600 unlabelled field images: the hard ones go up, the teacher answers", self._stream_is_in
        )

    def learn(self) -> None:
        """Ask the service for a new student and wait for its gate."""
        self.job = self.client.post("/api/v1/jobs", {"task": TASK, "seed": self.seed})
        self._until(
            "learn", "the service distils a new student from the answers; the devices go on", self._job_has_ended
        )
        if self.job["state"] != "succeeded":
            raise DemoFailed(
                f"the new student did not pass: {self.job['state']}, {self.job['message']}; "
                f"the devices keep the factory's. Logs: {self.folder / 'logs'}"
            )

    def wait_for_update(self) -> None:
        """Every device reported the new model."""
        self._until("update", "the devices fetch, prove and swap in the new student", self._update_has_ended)
        failed = [row for row in self._deployments() if row["state"] != "activated"]
        if failed:
            raise DemoFailed(f"{failed[0]['device']} did not take the new student: {failed[0]['message']}")

    def wait_for_after(self) -> None:
        """Every held-out image was met once by the new student, and every verdict is in."""
        self._until("after", _AFTER, self._after_is_in)

    def settle(self) -> None:
        """Close the books: what was answered until now is measured, once every verdict it waits for is in."""
        self._read()
        ends = [len(journal.answers) for journal in self.journals]
        books = list(zip(self.journals, ends, strict=True))
        with suppress(DemoFailed):  # a verdict that never comes is a lost sample, and the report says so
            self._until("settle", _AFTER, lambda: not any(journal.waiting_before(end) for journal, end in books))
        for journal, end in books:
            journal.close(end)

    def scene(self, *, stop: bool) -> Scene:
        """All there is to measure; `stop` ends the devices first, so that every byte is on their ledgers."""
        deployments = self._deployments()
        if stop:
            self.processes.stop([journal.device.name for journal in self.journals])
        return Scene(
            seed=self.seed,
            split=self.split,
            folder=self.folder,
            data=self.data,
            journals=self.journals,
            client=self.client,
            job=self.job or {},
            deployments=deployments,
            factory_version=self.factory_version,
            stage_seconds=self.stage_seconds,
            wall_seconds=self.seconds,
        )

    def keep_serving(self) -> None:
        """Leave everything running until Ctrl-C."""
        self.screen.say(
            f"\nStill running; Ctrl-C ends it.\n"
            f"  API        {self.client.url}/api/v1/devices   (OpenAPI: {self.client.url}/api/v1/openapi.json)\n"
            f"  broker     mqtt://127.0.0.1:{self.ports.broker}, topics edgeloop/v1/{SITE}/…\n"
            f"  files      {self.folder}\n"
            f"  try        edgeloop devices --url {self.client.url}"
        )
        try:
            while True:
                self.processes.check()
                time.sleep(1.0)
        except KeyboardInterrupt:
            self.screen.say("ending")

    # What the chapters wait for.

    def _service_is_up(self) -> bool:
        health = self.client.health()
        return health is not None and health["broker"] == "up"

    def _stream_has_begun(self) -> bool:
        return all(journal.stream_seen > 0 for journal in self.journals)

    def _stream_is_in(self) -> bool:
        return all(
            journal.stream_seen >= journal.device.stream_size
            and not any(a.offloaded and a.verdict is None for a in journal.answers if not a.exam)
            for journal in self.journals
        )

    def _job_has_ended(self) -> bool:
        if self.job is None:
            return False
        self.job = self.client.get(f"/api/v1/jobs/{self.job['id']}")
        return self.job["state"] not in ("queued", "running")

    def _update_has_ended(self) -> bool:
        rows = self._deployments()
        return len(rows) >= len(self.journals) and all(row["state"] != "pending" for row in rows)

    def _after_is_in(self) -> bool:
        version = str(self.job["version"]) if self.job else ""
        passes = [journal.exam_answers(version) for journal in self.journals]
        return all(
            len(answers) >= journal.device.exam_size
            and not any(a.offloaded and a.verdict is None for a in answers.values())
            for journal, answers in zip(self.journals, passes, strict=True)
        )

    # Watching.

    def _until(self, chapter: str, doing: str, done: Callable[[], bool]) -> None:
        began = self.seconds
        limit_s = _LIMITS_S[chapter]
        while not done():
            self.processes.check()
            if self.seconds - began > limit_s:
                raise DemoFailed(f"{doing}: not done after {limit_s} s; the logs are in {self.folder / 'logs'}")
            self._read()
            self._show(doing, job=self.job)
            time.sleep(_POLL_S)
        self.stage_seconds[chapter] = self.seconds - began

    def _read(self) -> None:
        at_s = time.monotonic() - self.devices_began
        for journal in self.journals:
            journal.read(at_s)

    def _show(self, doing: str, *, job: dict[str, Any] | None) -> None:
        up = bool(self.journals)
        self.screen.show(
            look(
                self.journals,
                seconds=self.seconds,
                doing=doing,
                store=self.client.get("/api/v1/samples/summary") if up else {},
                job=job,
                deployments=self._deployments() if up and self.job else [],
            )
        )

    def _deployments(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.client.get(f"/api/v1/deployments?task={TASK}")["items"]
        version = self.job["version"] if self.job else None
        return [row for row in rows if row["version"] == version]

    def _start(self, device: Device) -> None:
        self.processes.start(device.name, "edge_agent.cli", "run", "--config", str(device.config))
