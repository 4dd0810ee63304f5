"""Outcomes of a real agent process on a real broker and at a real HTTP receiver, which go away and come back."""

import asyncio
import contextlib
import json

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from shared.mqtt import BrokerSettings, Identity, connector
from tests.e2e.agent_bench import DEVICE, Device
from tests.harness import Mosquitto, eventually

pytestmark = pytest.mark.e2e

NODE = f"edgeloop--demo--{DEVICE}"
HOME = f"edgeloop-home/demo/{DEVICE}"


class Listener:
    """Keeps what is published on a topic filter, through every outage of the broker.

    Attributes:
        got: (topic, payload) in the order of their coming.
    """

    def __init__(self, broker: Mosquitto, pattern: str) -> None:
        self.got: list[tuple[str, bytes]] = []
        self._connect = connector(BrokerSettings(port=broker.port))
        self._pattern = pattern
        self.subscribed = asyncio.Event()

    async def __aenter__(self):
        self._task = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *error):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def seqs(self) -> list[int]:
        return [json.loads(payload)["seq"] for _, payload in self.got]

    def last(self, topic: str) -> bytes | None:
        return dict(self.got).get(topic)

    async def _listen(self) -> None:
        while True:
            with contextlib.suppress(Exception):  # the broker is away: try again
                async with self._connect(Identity("listener", session_expiry_s=600)) as connection:
                    await connection.subscribe([self._pattern])
                    self.subscribed.set()
                    async for message in connection.messages():
                        self.got.append((message.topic, message.payload))
            await asyncio.sleep(0.05)


class Receiver:
    """A webhook's receiver: answers with each of `statuses` once, then 200, and keeps what it took."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.requests = 0
        self.taken: list[dict] = []
        self.tokens: set[str | None] = set()

    async def take(self, request: web.Request) -> web.Response:
        self.requests += 1
        self.tokens.add(request.headers.get("Authorization"))
        records = await request.json()
        if self.statuses:
            return web.Response(status=self.statuses.pop(0))
        self.taken += records
        return web.Response()

    @contextlib.asynccontextmanager
    async def listening(self, port: int):
        app = web.Application()
        app.router.add_post("/hook", self.take)
        async with TestServer(app, port=port):
            yield


@pytest.fixture
def device(processes, tmp_path, mosquitto):
    return Device(tmp_path / "device", mosquitto.port, processes)


async def test_outcomes_on_a_topic_survive_the_broker_and_the_end_of_the_agent(device, mosquitto):
    async with Listener(mosquitto, "plant/#") as listener:
        await listener.subscribed.wait()
        agent = device.start("outcomes.mqtt.topic=plant/{task}/{kind}")
        await eventually(lambda: len(listener.got) > 50, timeout=30, what="outcomes arrive")
        mosquitto.restart()
        before = len(listener.got)
        await eventually(lambda: len(listener.got) > before + 100, timeout=30, what="outcomes arrive again")
        assert await asyncio.to_thread(agent.stop) == 0
        told = {each["seq"] for each in device.records()}
        await eventually(lambda: set(listener.seqs()) >= told, timeout=10, what="the last one arrives")
    assert {topic for topic, _ in listener.got} == {"plant/digits/outcome"}
    assert set(listener.seqs()) == told
    first = json.loads(listener.got[0][1])
    assert (first["kind"], first["site"], first["device"]) == ("outcome", "demo", DEVICE)


async def test_last_hard_outcome_is_kept_by_a_broker_of_its_own(device, mosquitto, tmp_path):
    with Mosquitto(tmp_path / "local") as local:
        agent = device.start(
            "outcomes.mqtt.topic=hard",
            "outcomes.mqtt.only=hard",
            "outcomes.mqtt.retain_last=true",
            f"outcomes.mqtt.broker.port={local.port}",
        )
        await eventually(lambda: len(device.offloaded()) > 3, timeout=30, what="hard samples")
        await asyncio.to_thread(agent.stop)
        async with Listener(local, "#") as listener:
            await eventually(lambda: listener.got, timeout=10, what="the retained outcome")
        assert "outcomes" not in mosquitto.log_text()
    ((topic, payload),) = listener.got
    assert (topic, json.loads(payload)["sample_id"] in device.offloaded()) == ("hard", True)


async def test_webhook_that_fails_first_gets_every_outcome_once_and_in_order(device, free_port):
    port = free_port()
    receiver = Receiver(503, 500, 429, 500)
    agent = device.start(
        f"outcomes.webhook.url=http://127.0.0.1:{port}/hook",
        'outcomes.webhook.headers={Authorization = "Bearer sesame"}',
        "outcomes.webhook.batch=50",
        "outcomes.webhook.retry_first_s=0.05",
        "outcomes.webhook.retry_cap_s=0.2",
    )
    await eventually(lambda: len(device.records()) > 50, timeout=30, what="outcomes without a receiver")
    async with receiver.listening(port):
        await eventually(lambda: len(receiver.taken) > 150, timeout=30, what="outcomes arrive")
    behind = len(device.records())
    await eventually(lambda: len(device.records()) > behind + 30, timeout=30, what="inference goes on without it")
    async with receiver.listening(port):
        await eventually(lambda: len(receiver.taken) > behind + 30, timeout=30, what="outcomes arrive again")
        assert await asyncio.to_thread(agent.stop) == 0
    seqs = [each["seq"] for each in receiver.taken]
    assert seqs == [each["seq"] for each in device.records()]
    assert receiver.tokens == {"Bearer sesame"}
    log = agent.log_text()
    assert log.count("takes outcomes again") >= 2
    assert "sesame" not in log
    assert "/hook" not in log


async def test_home_assistant_finds_the_device_and_sees_it_go(device, mosquitto):
    async with Listener(mosquitto, "#") as listener:
        agent = device.start("outcomes.home_assistant.enabled=true")
        await eventually(lambda: listener.last(f"{HOME}/tasks/digits"), timeout=30, what="the first prediction")
        assert json.loads(listener.last(f"{HOME}/tasks/digits"))["label"] == "3"
        assert listener.last(f"{HOME}/availability") == b"online"
        assert json.loads(listener.last(f"{HOME}/state"))["bytes_today"] >= 0
        announced = json.loads(listener.last(f"homeassistant/sensor/{NODE}/digits_prediction/config"))
        assert announced["state_topic"] == f"{HOME}/tasks/digits"
        agent.kill()
        await eventually(lambda: listener.last(f"{HOME}/availability") == b"offline", timeout=20, what="the last will")
        agent = device.start("outcomes.home_assistant.enabled=true")
        await eventually(lambda: listener.last(f"{HOME}/availability") == b"online", timeout=20, what="it is back")
        assert await asyncio.to_thread(agent.stop) == 0
        await eventually(lambda: listener.last(f"{HOME}/availability") == b"offline", timeout=10, what="the goodbye")


async def test_home_assistant_that_restarts_is_told_anew(device, mosquitto):
    connect = connector(BrokerSettings(port=mosquitto.port))
    topic = f"homeassistant/sensor/{NODE}/bytes_today/config"
    async with Listener(mosquitto, "homeassistant/#") as listener, connect(Identity("home-assistant")) as home:
        device.start("outcomes.home_assistant.enabled=true")
        await eventually(lambda: listener.last(topic), timeout=30, what="it is announced")
        listener.got.clear()
        await home.publish("homeassistant/status", b"online", qos=1)
        await eventually(lambda: listener.last(topic), timeout=20, what="it is announced anew")
