"""From stored samples to a bundle that devices fetch, with the real training pipeline and a kill on the way."""

import asyncio
import hashlib
import json
import urllib.request
from pathlib import Path

import pytest

from cloud_service.client import Client
from shared.messages import Desired
from tests.e2e.cloud_process import Cloud, device
from tests.harness import eventually
from tests.sim.bundles import linear_model, make, sample, weights

pytestmark = pytest.mark.e2e

# A gate that everything passes: what is tested is the way, not the student.
EASY = (
    "tasks.digits.rollout=auto",
    "tasks.digits.training.steps=8000",
    "tasks.digits.training.views=1",
    "tasks.digits.training.folds=0",
    "tasks.digits.training.gate.base_tolerance=1.0",
    "tasks.digits.training.gate.field_tolerance=1.0",
    "tasks.digits.training.gate.max_parity_drop=1.0",
    "tasks.digits.training.gate.max_model_bytes=1000000",
)


def easy(*more: str) -> list[str]:
    return [part for setting in (*EASY, *more) for part in ("--set", setting)]


@pytest.fixture
def cloud(tmp_path, mosquitto, processes, free_port):
    return Cloud(tmp_path / "cloud", mosquitto, free_port(), processes)


def children_in(folder: Path) -> list[int]:
    """Processes whose command line names the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(folder).encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def fetched_sha256(desired: Desired) -> str:
    with urllib.request.urlopen(desired.tasks["digits"].bundle.url, timeout=10) as answer:
        return hashlib.sha256(answer.read()).hexdigest()


@pytest.mark.slow
async def test_service_killed_while_training_goes_on_after_its_restart_and_ships(cloud, mosquitto, tmp_path):
    process = cloud.start(*easy())
    client = Client(f"http://127.0.0.1:{cloud.http_port}")
    make(tmp_path / "v1.bundle", version="v1")
    await asyncio.to_thread(client.upload_bundle, tmp_path / "v1.bundle")
    async with device(mosquitto) as cam:
        await cam.state()
        for n in range(30):
            await cam.send(sample(n % 10), seq=n)
        await cam.wait(lambda: len(cam.verdicts) == 30)
        job = await asyncio.to_thread(client.post, "/api/v1/jobs", {"task": "digits"})
        folder = cloud.folder / "data" / "jobs" / job["id"]

        def row() -> dict:
            return client.get(f"/api/v1/jobs/{job['id']}")

        await eventually(lambda: row()["progress"].get("distill", {}).get("done"), timeout=60, what="it trains")
        during = await cam.send(sample(4))
        assert (await cam.verdict(during.sample_id)).prediction == 4

        process.kill()
        await eventually(lambda: not children_in(folder), timeout=10, what="the training process ends with the service")
        process.start()
        await eventually(lambda: client.health() is not None, timeout=40, what="the service is back")
        await eventually(lambda: row()["state"] not in ("queued", "running"), timeout=110, what="the job has ended")
        ended = row()
        # Thirty came up and ten of them differ.
        assert (ended["state"], ended["attempts"], ended["samples"]) == ("succeeded", 2, 10)
        await cam.wait(lambda: cam.desired is not None)
        target = cam.desired.tasks["digits"].bundle
        assert (target.version, ended["version"]) == ("digits-1", "digits-1")
        assert await asyncio.to_thread(fetched_sha256, cam.desired) == target.sha256

        await cam.report(version=target.version, sha256=target.sha256)

        def states() -> list[str]:
            return [d["state"] for d in client.get("/api/v1/deployments")["items"]]

        await eventually(lambda: states() == ["activated"], timeout=10, what="the deployment is settled")
    assert (await asyncio.to_thread(client.get, "/api/v1/models/digits/digits-1"))["parent"] == "v1"
    assert "Traceback" not in process.log_text()


async def test_stopped_service_ends_its_training_in_time(cloud):
    process = cloud.start(*easy())
    client = Client(f"http://127.0.0.1:{cloud.http_port}")
    job = await asyncio.to_thread(client.post, "/api/v1/jobs", {"task": "digits"})
    folder = cloud.folder / "data" / "jobs" / job["id"]
    await eventually(lambda: children_in(folder), timeout=30, what="the training process runs")
    assert process.stop(timeout=15) == 0
    assert children_in(folder) == []
    assert "Traceback" not in process.log_text()


async def test_model_pushed_by_command_line_reaches_the_device(cloud, mosquitto, processes, tmp_path):
    cloud.start()
    (tmp_path / "any.onnx").write_bytes(linear_model(weights(64, 10)))
    description = {"task": "digits", "version": "any-1", "input": {"shape": [8, 8], "dtype": "uint8"}}
    (tmp_path / "any.json").write_text(json.dumps(description))
    async with device(mosquitto) as cam:
        await cam.state()
        push = processes.edgeloop(
            "model", "push", str(tmp_path / "any.onnx"), "--description", str(tmp_path / "any.json"),
            "--device", "cam-1", "--wait", "--url", f"http://127.0.0.1:{cloud.http_port}",
        )  # fmt: skip
        await cam.wait(lambda: cam.desired is not None)
        target = cam.desired.tasks["digits"].bundle
        assert target.version == "any-1"
        await cam.report(version=target.version, sha256=target.sha256)
        assert await asyncio.to_thread(push.wait, timeout=30) == 0
        assert "activated" in push.log_text()
    # The device is told again when it comes back: the message is retained.
    async with device(mosquitto) as cam:
        await cam.wait(lambda: cam.desired is not None)
