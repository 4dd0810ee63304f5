"""The product's own images and compose file, for real: samples, verdicts, and a model that reaches both devices."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import ROOT, free_port, wait_until
from tests.harness.processes import python_entry
from tests.lab.engine import Compose, DockerError, Engine

DEVICES = ("cam-1", "cam-2")
HEAVY = ("torch", "onnx", "sqlalchemy", "cv2")


class Deployment:
    """The compose project while it is up."""

    def __init__(self, compose: Compose, port: int, models: Path) -> None:
        self.compose = compose
        self.url = f"http://127.0.0.1:{port}"
        self.models = models

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:
            return json.load(answer)

    def versions(self) -> dict[str, str]:
        """Device → the version of the digits model that it says it runs."""
        devices = self.get("/api/v1/devices")["items"]
        return {d["name"]: d["tasks"]["digits"]["bundle_version"] for d in devices if "digits" in d["tasks"]}

    def status(self, device: str) -> dict[str, Any]:
        """`edge-agent status`, inside the device's container."""
        text = self.compose("exec", "-T", device, "edge-agent", "status", "--config", "/etc/edge-agent/agent.toml")
        return dict(json.loads(text))

    def verdicts(self, device: str) -> int:
        """How many verdicts reached the device, by its own count."""
        telemetry = self.get(f"/api/v1/devices/{device}")["telemetry"]
        return int(telemetry["tasks"]["digits"]["verdicts"]) if telemetry else 0

    def push(self, bundle: str, *devices: str) -> str:
        """`edgeloop model push`, as a person would type it on the host."""
        wanted = [part for device in devices for part in ("--device", device)] or ["--all"]
        args = ["model", "push", str(self.models / bundle), *wanted, "--wait", "--url", self.url]
        done = subprocess.run(
            python_entry("cloud_service.cli", "edgeloop", args), cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def deployment(
    engine: Engine, images: dict[str, str], checkout: Path, compose_plugin: None, request: pytest.FixtureRequest
) -> Iterator[Deployment]:
    models = checkout / "deploy" / "models"
    script = [sys.executable, "examples/compose/make_models.py", str(models)]
    subprocess.run(script, cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, check=True, timeout=300)
    port = free_port()
    compose = Compose(
        engine, checkout / "deploy" / "compose.yaml", project="edgeloop-lab", env={"EDGELOOP_PORT": str(port)}
    )
    compose("down", "--volumes", "--timeout", "5")  # what an interrupted run left
    try:
        compose("up", "--detach", "--wait", "--no-build", timeout=240)
        yield Deployment(compose, port, models)
        if request.session.testsfailed:
            print(compose("logs", "--tail=60"))
    finally:
        compose("down", "--volumes", "--timeout", "10")


def test_up_waits_until_every_service_is_healthy(deployment):
    states = {
        c["Config"]["Labels"]["com.docker.compose.service"]: c["State"]["Health"]["Status"]
        for c in deployment.compose.containers()
    }
    assert states == dict.fromkeys(["mosquitto", "cloud", *DEVICES], "healthy")


def test_samples_go_up_and_verdicts_come_down(deployment):
    def answered() -> bool:
        groups = deployment.get("/api/v1/samples/summary")["groups"]
        return {g["device"] for g in groups if g["label"] is not None} == set(DEVICES)

    wait_until(answered, timeout=60, what="the teacher answered a sample of each device")
    wait_until(
        lambda: all(deployment.verdicts(device) > 0 for device in DEVICES),
        timeout=60,
        what="each device counts a verdict in its telemetry",
    )


def test_model_pushed_to_one_device_leaves_the_other_alone(deployment):
    before = deployment.versions()
    assert set(before) == set(DEVICES)
    deployment.push("better.bundle", "cam-1")
    wait_until(
        lambda: deployment.versions()["cam-1"] == "better", timeout=30, what="cam-1 says that it runs the new model"
    )
    assert deployment.versions()["cam-2"] == before["cam-2"]


def test_model_pushed_to_all_reaches_both_devices(deployment):
    deployment.push("better.bundle")
    wait_until(
        lambda: set(deployment.versions().values()) == {"better"}, timeout=30, what="both devices run the new model"
    )
    for device in DEVICES:
        assert deployment.status(device)["tasks"]["digits"]["version"] == "better"


def test_device_restarted_keeps_the_model_and_its_identity(deployment):
    deployment.compose("restart", "--timeout", "20", "cam-1")
    assert deployment.status("cam-1")["tasks"]["digits"]["version"] == "better"
    wait_until(lambda: online(deployment, "cam-1"), timeout=60, what="cam-1 is back online")


def test_cloud_restarted_takes_up_the_fleet(deployment):
    total = deployment.get("/api/v1/samples/summary")["total"]
    deployment.compose("kill", "cloud")
    deployment.compose("up", "--detach", "--wait", "--no-build", "cloud")
    wait_until(
        lambda: deployment.get("/api/v1/samples/summary")["total"] > total, timeout=90, what="samples come in again"
    )
    assert set(deployment.versions().values()) == {"better"}


def test_containers_run_without_root_and_publish_on_loopback_only(deployment):
    for container in deployment.compose.containers():
        service = container["Config"]["Labels"]["com.docker.compose.service"]
        published = [
            binding for bindings in container["NetworkSettings"]["Ports"].values() for binding in bindings or []
        ]
        assert all(binding["HostIp"] == "127.0.0.1" for binding in published), service
        if service != "mosquitto":  # it starts as root and drops to its own user
            assert deployment.compose("exec", "-T", service, "id", "-u").strip() == "10001"
            assert container["HostConfig"]["ReadonlyRootfs"]
            assert "ORT_DISABLE_TELEMETRY=1" in container["Config"]["Env"]


@pytest.mark.parametrize("module", HEAVY)
def test_edge_image_lacks(images, engine, module):
    with pytest.raises(DockerError, match="ModuleNotFoundError"):
        engine.docker("run", "--rm", "--entrypoint", "python", images["edge"], "-c", f"import {module}")


def test_edge_image_holds_nothing_of_the_cloud(images, engine):
    with pytest.raises(DockerError, match="ModuleNotFoundError"):
        engine.docker("run", "--rm", "--entrypoint", "python", images["edge"], "-c", "import cloud_service")


def test_cloud_image_has_the_cpu_build_of_torch(images, engine):
    code = "import torch; print(torch.version.cuda)"
    assert engine.docker("run", "--rm", "--entrypoint", "python", images["cloud"], "-c", code).strip() == "None"


def test_edge_image_without_its_settings_says_what_is_missing(images, engine):
    with pytest.raises(DockerError, match=r"agent\.toml"):
        engine.docker("run", "--rm", images["edge"])


def online(deployment: Deployment, device: str) -> bool:
    """Whether the cloud sees the device."""
    return bool(next(d for d in deployment.get("/api/v1/devices")["items"] if d["name"] == device)["online"])
