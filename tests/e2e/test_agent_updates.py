"""Real agent processes that are updated, refused, starved of disk and killed; the device always has a working model."""

import asyncio
import random

import pytest

from shared.messages import UpdateFailure, UpdateOutcome
from shared.mqtt import BrokerSettings, connector
from tests.e2e.agent_bench import DEVICE, Device, gapless
from tests.harness import eventually
from tests.sim.cloud import BundleServer, MessageCloud
from tests.sim.disk import fill, small_disk

pytestmark = pytest.mark.e2e

KILLS = 15


def cloud_at(port):
    return MessageCloud(connector(BrokerSettings(port=port)), "demo")


def runs(cloud, version):
    state = cloud.states.get(DEVICE)
    return state is not None and state.online and state.tasks["digits"].bundle_version == version


def answers_with(device, version):
    outcomes = device.records()
    return bool(outcomes) and outcomes[-1]["bundle_version"] == version


async def test_update_swaps_without_losing_an_inference(broker, processes, tmp_path):
    device = Device(tmp_path / "device", broker.port, processes)
    async with cloud_at(broker.port) as cloud, BundleServer() as server:
        agent = device.start()
        await eventually(lambda: runs(cloud, "factory"), timeout=30, what="the agent is there")
        for shift, version in enumerate(("v1", "v2"), start=1):
            await cloud.push(DEVICE, device.offer(server, version, shift=shift))
            await eventually(lambda v=version: runs(cloud, v), timeout=30, what=f"{version} runs")
            await eventually(lambda v=version: answers_with(device, v), timeout=10, what=f"{version} answers")
        await eventually(lambda: len(cloud.distinct_reports()) == 2, timeout=10, what="two reports")
        assert agent.stop() == 0
    outcomes = device.records()
    assert gapless(outcomes)
    sure = [each for each in outcomes if each["action"] == "keep"]
    assert {(each["bundle_version"], each["label"]) for each in sure} == {("factory", "3"), ("v1", "2"), ("v2", "1")}
    versions = [each["bundle_version"] for each in outcomes]
    assert sorted(versions, key=["factory", "v1", "v2"].index) == versions
    assert [(each.from_version, each.version) for each in cloud.reports] == [("factory", "v1"), ("v1", "v2")]
    assert {each.outcome for each in cloud.reports} == {UpdateOutcome.ACTIVATED}


async def test_bad_bundles_are_refused_with_a_report_and_the_old_model_serves(mosquitto, processes, tmp_path):
    device = Device(tmp_path / "device", mosquitto.port, processes)
    async with cloud_at(mosquitto.port) as cloud, BundleServer() as server:
        agent = device.start()
        sound = device.offer(server, "sound")
        data = server.files["sound.bundle"]
        middle = len(data) // 2
        server.files["truncated.bundle"] = data[:middle]
        server.files["altered.bundle"] = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        wrong = {
            "truncated": (
                sound.model_copy(update={"version": "truncated", "url": f"{server.url}/truncated.bundle"}),
                UpdateFailure.DOWNLOAD,
            ),
            "altered": (
                sound.model_copy(update={"version": "altered", "url": f"{server.url}/altered.bundle"}),
                UpdateFailure.MISMATCH,
            ),
            "broken": (device.offer(server, "broken", model=b"nonsense"), UpdateFailure.SELF_TEST),
            "different": (device.offer(server, "different", wrong_golden=True), UpdateFailure.SELF_TEST),
            "foreign": (device.offer(server, "foreign", labels=tuple("abcdefghij")), UpdateFailure.REFUSED),
        }
        for count, (name, (reference, failure)) in enumerate(wrong.items(), start=1):
            await cloud.push(DEVICE, reference)
            await eventually(lambda c=count: len(cloud.distinct_reports()) == c, timeout=30, what=f"report of {name}")
            report = cloud.reports[-1]
            assert (report.version, report.outcome, report.failure) == (name, UpdateOutcome.FAILED, failure)
            assert report.message
            assert device.pointer() == "factory"
        assert agent.running
        before = len(device.records())
        await eventually(lambda: len(device.records()) > before + 20, timeout=10, what="it answers on")
    assert gapless(device.records())
    assert {each["bundle_version"] for each in device.records()} == {"factory"}


async def test_full_disk_during_a_download_is_reported_and_a_renewed_wish_works(mosquitto, processes, tmp_path):
    with small_disk(tmp_path / "disk", kilobytes=4096) as disk:
        device = Device(disk / "device", mosquitto.port, processes)
        device.outcomes_file = tmp_path / "outcomes.jsonl"
        async with cloud_at(mosquitto.port) as cloud, BundleServer() as server:
            agent = device.start(f"outcomes.path={device.outcomes_file}")
            await eventually(lambda: runs(cloud, "factory"), timeout=30, what="the agent is there")
            reference = device.offer(server, "v1", shift=1, padding=300_000)
            (device.folder / "v1.bundle").unlink()
            ballast = fill(disk, leave=200_000)
            await cloud.push(DEVICE, reference)
            await eventually(lambda: cloud.reports, timeout=30, what="the report of the full disk")
            assert cloud.reports[0].failure is UpdateFailure.STORAGE
            assert "free some space" in cloud.reports[0].message
            before = len(device.records())
            await eventually(lambda: len(device.records()) > before + 20, timeout=10, what="it answers on")
            ballast.unlink()
            await cloud.push(DEVICE, reference)
            await eventually(lambda: runs(cloud, "v1"), timeout=30, what="the renewed wish is met")
            agent.stop()
        assert gapless(device.records())


async def test_agent_killed_while_swapping_always_starts_and_reaches_the_wanted_version(mosquitto, processes, tmp_path):
    device = Device(tmp_path / "device", mosquitto.port, processes)
    rng = random.Random(11)
    async with cloud_at(mosquitto.port) as cloud, BundleServer() as server:
        agent = device.start()
        await eventually(lambda: runs(cloud, "factory"), timeout=30, what="the agent is there")
        wanted, seen = "factory", []
        for kill in range(KILLS):
            before, wanted = wanted, f"v{kill}"
            await cloud.push(DEVICE, device.offer(server, wanted, shift=1 + kill % 2))
            await asyncio.sleep(rng.uniform(0.0, 1.6))
            agent.kill_group()
            seen.append(device.pointer())
            assert seen[-1] in (before, wanted)
            agent = device.start()
            await eventually(lambda v=wanted: runs(cloud, v), timeout=30, what=f"{wanted} runs after kill {kill}")
            await eventually(
                lambda v=wanted: any(each.version == v for each in cloud.reports), timeout=20, what=f"{wanted} reported"
            )
        agent.stop()
    reports = list(cloud.distinct_reports().values())
    assert [each.version for each in reports] == [f"v{kill}" for kill in range(KILLS)]
    assert {(each.outcome, each.failure) for each in reports} == {(UpdateOutcome.ACTIVATED, UpdateFailure.NONE)}
    print(f"after a kill: {sum(v == f'v{k}' for k, v in enumerate(seen))} of {KILLS} had swapped already")
    outcomes = device.records()
    assert len({each["seq"] for each in outcomes}) == len(outcomes)
    assert all(each["label"] in "321" for each in outcomes)
