"""What starts training jobs at a real service: samples, then drift; the cool-down holds them apart."""

import asyncio
import sqlite3
from datetime import UTC, datetime

import pytest

from cloud_service.client import Client
from tests.e2e.cloud_process import Cloud, device
from tests.harness import eventually
from tests.sim.bundles import sample

pytestmark = pytest.mark.e2e


def settings(cooldown_s: int) -> list[str]:
    training = ("steps=200", "views=1", "folds=0", "gate.base_tolerance=1.0", "gate.max_parity_drop=1.0")
    trigger = ("new_samples=10", "on_drift=true", "min_new_samples=5", f"cooldown_s={cooldown_s}")
    keys = [f"training.{key}" for key in training] + [f"trigger.{key}" for key in trigger]
    return [part for key in keys for part in ("--set", f"tasks.digits.{key}")]


@pytest.fixture
def cloud(tmp_path, mosquitto, processes, free_port):
    return Cloud(tmp_path / "cloud", mosquitto, free_port(), processes)


def note_drift(cloud: Cloud) -> None:
    """As the estimator does, of another replica."""
    row = ("digits", "cam-1", "digits/cam-1", "cam-1 sees something else", "{}", datetime.now(UTC).replace(tzinfo=None))
    with sqlite3.connect(cloud.folder / "data" / "edgeloop.db", timeout=20) as database:
        insert = (
            "INSERT INTO incidents (task, device, open_key, sentence, evidence, opened_at) VALUES (?, ?, ?, ?, ?, ?)"
        )
        database.execute(insert, (*row[:5], row[5].isoformat(sep=" ")))
    database.close()


async def test_samples_and_drift_start_jobs_and_the_cool_down_holds_the_next(cloud, mosquitto, processes):
    process = cloud.start(*settings(3_600))
    client = Client(f"http://127.0.0.1:{cloud.http_port}")

    def jobs() -> list[dict]:
        return client.get("/api/v1/jobs")["items"]

    def trigger() -> dict:
        return client.get("/api/v1/triggers")["items"][0]

    async with device(mosquitto) as cam:
        await cam.state()
        for n in range(9):
            await cam.send(sample(n), seq=n)
        await cam.wait(lambda: len(cam.verdicts) == 9)
        assert (await asyncio.to_thread(trigger))["reason"].startswith("9 of 10 new samples")
        assert await asyncio.to_thread(jobs) == []
        await cam.send(sample(9), seq=9)
        await eventually(jobs, timeout=20, what="a job is queued")
        logs = processes.edgeloop("distill", "logs", jobs()[0]["id"], "--follow", "--url", client.url)
        await eventually(lambda: jobs()[0]["state"] not in ("queued", "running"), timeout=60, what="it has ended")
        [first] = await asyncio.to_thread(jobs)
        assert (first["state"], first["trigger"], first["samples"]) == ("succeeded", "samples", 10)
        assert first["seconds"] > 0
        assert await asyncio.to_thread(logs.wait, timeout=30) == 0
        assert "distill begins" in logs.log_text()

        for n in range(10, 22):
            await cam.send(sample(n % 10), seq=n)
        await cam.wait(lambda: len(cam.verdicts) == 22)
        note_drift(cloud)
        await eventually(lambda: "no job yet: drift" in process.log_text(), timeout=20, what="it is held and said")
        held = await asyncio.to_thread(trigger)
        assert (held["standing"], held["trigger"], held["new_samples"]) == ("held", "drift", 12)
        assert "the cool-down lasts until" in held["reason"]
        assert len(await asyncio.to_thread(jobs)) == 1

        assert await asyncio.to_thread(process.stop) == 0
        again = cloud.start(*settings(0))
        await eventually(lambda: len(jobs()) == 2, timeout=20, what="the drift starts a job")
        await eventually(lambda: jobs()[0]["state"] not in ("queued", "running"), timeout=60, what="it has ended")
        second = jobs()[0]
        assert (second["state"], second["trigger"]) == ("succeeded", "drift")
        assert second["reason"] == "drift: cam-1 sees something else"
        assert trigger()["standing"] == "idle"
        assert "Traceback" not in process.log_text() + again.log_text()
