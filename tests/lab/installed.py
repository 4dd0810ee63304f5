"""The agent as a person installs it on a device, and what can be seen of it from outside."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

from tests.e2e.cloud_process import SITE
from tests.lab.device import Device
from tests.sim import bundles
from tests.sim.bundles import hard_sample, sample

CONFIG = "/etc/edge-agent/agent.toml"
UNIT = "edge-agent.service"
# Of each ten samples of the stream these are hard, and go up.
HARD = (2, 5, 8)

SOURCE = """
[[tasks.digits.sources]]
kind = "replay"
path = "stream.npz"
rate_hz = {rate_hz}
repeat = true
"""


class InstalledAgent:
    """`edge-agent install` on a device that plays a stream of samples for ever, three of ten of them hard."""

    def __init__(self, device: Device, broker_port: int, *, rate_hz: float = 20.0) -> None:
        self.device = device
        self._broker_port, self._rate_hz = broker_port, rate_hz
        folder = device.root / "etc/edge-agent"
        folder.mkdir(exist_ok=True)
        bundles.make(folder / "factory.bundle")
        (folder / "factory.bundle").chmod(0o644)
        x = np.stack([hard_sample(i) if i in HARD else sample(i) for i in range(10)])
        np.savez(folder / "stream.npz", x=x, reference=np.arange(10))
        self.configure()

    def configure(self, *, name: str | None = None, deadline_s: float = 0.0, plays: bool = True) -> None:
        """Write agent.toml; `plays=False`: without a source, so that it only delivers what it has."""
        self.write_config(
            f"""
site = "{SITE}"
device = "{name or self.device.name}"
state_dir = "/var/lib/edge-agent"
[broker]
host = "{self.device.link.host}"
port = {self._broker_port}
keepalive_s = 5
reconnect_first_s = 0.2
reconnect_cap_s = 1.0
[spool]
resend_after_s = 5.0
[outcomes]
path = "/var/lib/edge-agent/outcomes.jsonl"
[telemetry]
interval_s = 2.0
[tasks.digits]
bundle = "factory.bundle"
audit_fraction = 0.0
deadline_s = {deadline_s}
duplicates = {{ distance = 0.0 }}
"""
            + (SOURCE.format(rate_hz=self._rate_hz) if plays else "")
        )

    def write_config(self, text: str) -> None:
        file = self.device.root / CONFIG.lstrip("/")
        file.write_text(text)
        file.chmod(0o644)

    def install(self, *options: str) -> str:
        return self.device.run("edge-agent", "install", "--config", CONFIG, "--enable", "--start", *options)

    def override(self, **properties: str) -> None:
        """What `systemctl edit edge-agent` would write; takes effect with the next start."""
        folder = self.device.root / f"etc/systemd/system/{UNIT}.d"
        folder.mkdir(exist_ok=True)
        lines = [f"{key}={value}" for key, value in properties.items()]
        (folder / "override.conf").write_text("\n".join(["[Service]", *lines]) + "\n")
        self.device.run("systemctl", "daemon-reload")

    def show(self, name: str) -> str:
        return self.device.show(UNIT, name)

    @property
    def active(self) -> bool:
        return self.show("ActiveState") == "active"

    @property
    def pid(self) -> int:
        """Of its process, as the device counts."""
        return int(self.show("MainPID"))

    @property
    def restarts(self) -> int:
        """How often systemd has started it again after a failure."""
        return int(self.show("NRestarts"))

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.device.run("edge-agent", "status", "--config", CONFIG, "--json")))

    def doctor(self) -> list[dict[str, str]]:
        """Its findings."""
        return list(json.loads(self.device.run("edge-agent", "doctor", "--config", CONFIG, "--json", check=False)))

    def outcomes(self) -> list[dict[str, Any]]:
        """Everything that it has answered, read from its file without disturbing the device."""
        file = self.state / "outcomes.jsonl"
        if not file.exists():
            return []
        whole, _, _cut = file.read_text().rpartition("\n")
        lines = [json.loads(line) for line in whole.splitlines() if line]
        return [line for line in lines if "action" in line]

    def offloaded(self) -> set[UUID]:
        """Samples of which it has said that they go up."""
        return {UUID(each["sample_id"]) for each in self.outcomes() if each["action"] == "offload"}

    @property
    def state(self) -> Path:
        """Its state folder, as this machine sees it."""
        return self.device.root / "var/lib/private/edge-agent"

    def journal(self) -> str:
        return self.device.journal(UNIT)
