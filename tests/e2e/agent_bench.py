"""A device for end-to-end tests: settings, a factory bundle, a stream, the agent's process and what it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from shared.messages import BundleReference
from tests.harness import Process, Processes
from tests.sim import bundles
from tests.sim.bundles import hard_sample, sample
from tests.sim.cloud import BundleServer

DEVICE = "cam-1"


class Device:
    """Its factory model calls a 3 a 3; `offer(shift=1)` makes one that calls it a 2."""

    def __init__(self, folder: Path, port: int, processes: Processes) -> None:
        self.folder = folder
        self.config = folder / "agent.toml"
        self.outcomes_file = folder / "outcomes.jsonl"
        self.state_dir = folder / "state"
        self._processes = processes
        folder.mkdir(parents=True, exist_ok=True)
        bundles.make(folder / "factory.bundle", version="factory")
        self.config.write_text(
            f"""
site = "demo"
device = "{DEVICE}"
state_dir = "{self.state_dir}"
[broker]
port = {port}
reconnect_first_s = 0.1
reconnect_cap_s = 0.4
[tasks.digits]
bundle = "{folder}/factory.bundle"
audit_fraction = 0.0
[[tasks.digits.sources]]
kind = "replay"
path = "{folder}/stream.npz"
repeat = true
rate_hz = 100.0
[outcomes]
path = "{self.outcomes_file}"
[spool]
resend_after_s = 2.0
[telemetry]
interval_s = 0.5
save_interval_s = 0.2
[updates]
download_tries = 3
"""
        )
        self.stream(hard_every=10)

    def stream(self, *, hard_every: int = 0, count: int = 10) -> None:
        """What the source plays: sure 3s, every so-manieth hard instead."""
        x = [hard_sample(3) if hard_every and i % hard_every == 0 else sample(3) for i in range(count)]
        np.savez(self.folder / "stream.npz", x=np.stack(x))

    def start(self, *overrides: str) -> Process:
        arguments = [part for override in overrides for part in ("--set", override)]
        return self._processes.agent(self.config, *arguments)

    def offer(self, server: BundleServer, version: str, **options: Any) -> BundleReference:
        """Make a bundle and serve it."""
        file = self.folder / f"{version}.bundle"
        bundles.make(file, version=version, **options)
        return server.reference(file, version)

    def records(self, kind: str = "outcome") -> list[dict[str, Any]]:
        """Whole lines of the outcome file; a kill may leave a half one at the end."""
        if not self.outcomes_file.exists():
            return []
        lines = self.outcomes_file.read_text().split("\n")[:-1]
        return [value for line in lines if (value := json.loads(line))["kind"] == kind]

    def offloaded(self) -> set[str]:
        return {each["sample_id"] for each in self.records() if each["action"] == "offload"}

    def pointer(self) -> str:
        return str(json.loads((self.state_dir / "tasks/digits/active.json").read_text())["version"])


def gapless(outcomes: list[dict[str, Any]]) -> bool:
    """Whether the outcomes of one process count on without a gap or a twin."""
    seqs = [each["seq"] for each in outcomes]
    return seqs == list(range(seqs[0], seqs[0] + len(seqs)))
