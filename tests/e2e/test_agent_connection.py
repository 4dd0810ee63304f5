"""A real agent process and a real broker that is late, goes away, or says no; nothing that was spooled is lost."""

from uuid import UUID

import pytest

from shared import messages
from shared.mqtt import BrokerSettings, connector
from shared.topics import Channel
from tests.e2e.agent_bench import DEVICE, Device, gapless
from tests.harness import Mosquitto, eventually, free_port
from tests.harness.brokers import NO_MOSQUITTO, find_mosquitto
from tests.sim.cloud import MessageCloud, accept, refuse, silence, verdict

pytestmark = pytest.mark.e2e


def cloud_at(port, **options):
    return MessageCloud(connector(BrokerSettings(port=port)), "demo", **options)


def arrived(cloud):
    return {str(sample_id) for sample_id in cloud.samples}


async def settled(device, cloud, agent):
    """Stop the source's flow by stopping the agent; then let a quiet one deliver the rest."""
    agent.stop()
    device.stream(count=1)
    rest = device.start()
    await eventually(lambda: arrived(cloud) >= device.offloaded(), timeout=30, what="every offloaded sample arrived")
    await eventually(
        lambda: (t := cloud.telemetry.get(DEVICE)) is not None and t.spool.items == 0 and t.uptime_s < 25,
        timeout=30,
        what="the spool is empty",
    )
    rest.stop()


async def test_agent_offloads_what_is_hard_and_takes_the_answers(broker, processes, tmp_path):
    device = Device(tmp_path / "device", broker.port, processes)
    async with cloud_at(broker.port, answer=lambda header, tensor: verdict(header, 7)) as cloud:
        agent = device.start()
        await eventually(lambda: len(device.records("correction")) >= 10, timeout=30, what="ten corrections")
        state = cloud.states[DEVICE]
        assert (state.online, state.tasks["digits"].bundle_version) == (True, "factory")
        assert agent.stop() == 0
        await eventually(lambda: not cloud.states[DEVICE].online, timeout=10, what="the goodbye")
    corrections = device.records("correction")
    assert {(each["label"], each["agreed"]) for each in corrections} == {("7", False)}
    assert len({each["sample_id"] for each in corrections}) == len(corrections)
    assert gapless(device.records())
    hard = [each for each in device.records() if each["action"] == "offload"]
    assert {each["reference"] for each in hard} == {0}


async def test_verdicts_that_came_while_the_device_was_away_become_corrections(broker, processes, tmp_path):
    device = Device(tmp_path / "device", broker.port, processes)
    async with cloud_at(broker.port, answer=accept) as cloud:
        agent = device.start()
        await eventually(lambda: len(cloud.samples) >= 5, timeout=30, what="the cloud has samples, and says so")
        assert agent.stop() == 0
        assert device.records("correction") == []
        for (header, _), *_ in cloud.samples.values():
            await cloud.send(DEVICE, Channel.VERDICT, messages.encode(verdict(header, 7)))
        asked = arrived(cloud)
        device.stream(count=1)
        agent = device.start()
        await eventually(
            lambda: {each["sample_id"] for each in device.records("correction")} >= asked,
            timeout=30,
            what="every correction is told",
        )
        assert agent.stop() == 0
    assert len(device.records("correction")) == len(asked)
    assert {each["reference"] for each in device.records("correction")} == {0}


async def test_agent_without_a_broker_answers_and_delivers_everything_when_it_comes(processes, tmp_path):
    if find_mosquitto() is None:
        pytest.skip(NO_MOSQUITTO)
    port = free_port()
    device = Device(tmp_path / "device", port, processes)
    agent = device.start()
    await eventually(lambda: len(device.offloaded()) >= 20, timeout=30, what="inference goes on without a broker")
    assert "no MQTT broker answers" in agent.log_text()
    assert agent.log_text().count("trying again until it answers") == 1
    with Mosquitto(tmp_path / "mosquitto", port=port):
        async with cloud_at(port) as cloud:
            await eventually(lambda: len(cloud.samples) >= 20, timeout=30, what="the samples arrive")
            assert "connected again" in agent.log_text()
            await settled(device, cloud, agent)
    assert arrived(cloud) == device.offloaded()


async def test_broker_that_goes_away_and_comes_back_loses_nothing(mosquitto, processes, tmp_path):
    device = Device(tmp_path / "device", mosquitto.port, processes)
    async with cloud_at(mosquitto.port) as cloud:
        agent = device.start()
        await eventually(lambda: len(cloud.samples) >= 5, timeout=30, what="the first samples")
        for end in (mosquitto.stop, mosquitto.kill):
            end()
            before = len(device.offloaded())
            await eventually(lambda n=before: len(device.offloaded()) > n + 15, timeout=30, what="inference goes on")
            mosquitto.start()
            await eventually(lambda: arrived(cloud) >= device.offloaded(), timeout=30, what="all came after the outage")
        assert agent.running
        await settled(device, cloud, agent)
    assert arrived(cloud) == device.offloaded()
    assert agent.log_text().count("trying again until it answers") == 2


async def test_refusal_lets_go_of_exactly_that_sample(mosquitto, processes, tmp_path):
    device = Device(tmp_path / "device", mosquitto.port, processes)
    refused: set[UUID] = set()

    def every_second(header, tensor):
        first_time = len(cloud.samples[header.sample_id]) == 1
        if first_time and len(refused) < 5 and len(cloud.samples) % 2:
            refused.add(header.sample_id)
        return refuse(header, tensor) if header.sample_id in refused else silence(header, tensor)

    async with cloud_at(mosquitto.port) as cloud:
        cloud.answer = every_second
        agent = device.start("spool.resend_after_s=1.0")
        await eventually(lambda: len(refused) == 5 and len(cloud.samples) >= 12, timeout=30, what="five refusals")
        await eventually(
            lambda: sum(len(each) > 1 for each in cloud.samples.values()) >= 7, timeout=30, what="the others come again"
        )
        assert {len(cloud.samples[each]) for each in refused} == {1}
        cloud.answer = lambda header, tensor: verdict(header)
        await settled(device, cloud, agent)
        assert {len(cloud.samples[each]) for each in refused} == {1}
    corrected = {each["sample_id"] for each in device.records("correction")}
    assert corrected == device.offloaded() - {str(each) for each in refused}


async def test_agent_killed_with_a_full_spool_delivers_every_sample_once(mosquitto, processes, tmp_path):
    device = Device(tmp_path / "device", mosquitto.port, processes)
    device.stream(hard_every=1)
    agent = device.start("broker.port=1", "tasks.digits.sources=[]")
    agent.stop()
    source = f'[{{kind = "replay", path = "{device.folder}/stream.npz", repeat = true, rate_hz = 2000.0}}]'
    for _ in range(3):
        before = len(device.offloaded())
        agent = device.start("broker.port=1", f"tasks.digits.sources={source}")
        await eventually(lambda n=before: len(device.offloaded()) >= n + 300, timeout=30, what="hundreds are spooled")
        agent.kill()
    expected = device.offloaded()
    device.stream(count=1)
    async with cloud_at(mosquitto.port) as cloud:
        device.start()
        await eventually(lambda: arrived(cloud) >= expected, timeout=30, what="every spooled sample arrived")
        await eventually(
            lambda: DEVICE in cloud.telemetry and cloud.telemetry[DEVICE].spool.items == 0,
            timeout=20,
            what="the spool is empty",
        )
    # A sample may be in the spool whose outcome the kill kept from the file: at most one a kill.
    assert len(arrived(cloud) - expected) <= 3
    assert {len(each) for each in cloud.samples.values()} == {1}
