"""A device whose world changes, a real broker, a real service: estimates, metrics, one incident, and a restart."""

import math
import random
import urllib.request

import pytest

from shared.messages import Reason
from tests.e2e.cloud_process import Cloud, device
from tests.harness import eventually
from tests.sim.bundles import sample

pytestmark = pytest.mark.e2e

# The teacher reads the label off the sample, so a device that says another label differs.
LABEL, FRACTION = 3, 0.2
OPTIONS = ("--set", "estimates.every_s=0.3", "--set", "estimates.settle_s=0.2")


async def send_audits(cam, count, *, odds, prediction, rng, seq):
    for number in range(count):
        score = 1 / (1 + math.exp(-rng.gauss(odds, 1.0)))
        sent = await cam.send(
            sample(LABEL),
            seq=seq + number,
            prediction=prediction,
            hardness=score,
            reason=Reason.AUDIT,
            inclusion_probability=FRACTION,
        )
    await cam.verdict(sent.sample_id)


def metric(cloud, line):
    """The value of a series."""
    with urllib.request.urlopen(f"http://127.0.0.1:{cloud.http_port}/metrics", timeout=10) as answer:
        found = [text for text in answer.read().decode().splitlines() if text.startswith(line + " ")]
    return float(found[0].rpartition(" ")[2]) if found else None


async def test_world_that_changes_is_an_incident_and_stays_one_over_a_restart(
    tmp_path, mosquitto, processes, free_port
):
    cloud = Cloud(tmp_path / "cloud", mosquitto, free_port(), processes)
    process = cloud.start(*OPTIONS)
    rng = random.Random(1)

    def estimate():
        return next((item for item in cloud.get("/api/v1/estimates")["items"] if item["device"] == "cam-1"), None)

    def audits(count):
        return lambda: (found := estimate()) is not None and found["agreement"]["audits"] == count

    async with device(mosquitto) as cam:
        await cam.state()
        await send_audits(cam, 200, odds=-3.0, prediction=LABEL, rng=rng, seq=0)
        await eventually(audits(200), timeout=30, what="the calm audits are estimated")
        calm = estimate()["agreement"]
        assert calm["final"]["value"] == 1.0
        assert 0.97 < calm["final"]["low"] < 1.0
        assert cloud.get("/api/v1/incidents")["items"] == []

        await send_audits(cam, 120, odds=0.0, prediction=LABEL + 1, rng=rng, seq=1_000)
        await eventually(audits(320), timeout=30, what="all audits are estimated")
        await eventually(
            lambda: cloud.get("/api/v1/incidents?open=true")["items"], timeout=30, what="there is an incident"
        )

    found = estimate()
    assert found["agreement"]["own"]["value"] == pytest.approx(200 / 320)
    assert any("the goal is 99.8%" in warning for warning in found["warnings"])
    (incident,) = cloud.get("/api/v1/incidents")["items"]
    assert (incident["device"], incident["task"], incident["closed_at"]) == ("cam-1", "digits", None)
    assert len(incident["evidence"]["alarms"]) == 2
    assert process.log_text().count("what it sees has changed") == 1
    own = 'edgeloop_cloud_agreement_ratio{answers="own",bound="value",device="cam-1",task="digits"}'
    assert metric(cloud, own) == pytest.approx(200 / 320)
    assert metric(cloud, 'edgeloop_cloud_incidents{task="digits"}') == 1
    assert metric(cloud, 'edgeloop_cloud_samples_total{what="stored"}') == 320
    assert metric(cloud, "edgeloop_cloud_mqtt_connected") == 1

    process.kill()
    cloud.start(*OPTIONS)
    stands = 'edgeloop_cloud_stream_samples{device="cam-1",task="digits"}'
    await eventually(lambda: metric(cloud, stands) == 320, timeout=30, what="the detectors know what they knew")
    assert metric(cloud, 'edgeloop_cloud_incidents{task="digits"}') == 1
    assert [item["id"] for item in cloud.get("/api/v1/incidents")["items"]] == [incident["id"]]
