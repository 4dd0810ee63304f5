"""Both brokers, for real: they run, speak MQTT 5 with shared subscriptions, and answer without Nagle's delay."""

import asyncio
import statistics
import time

import pytest

from shared.mqtt import BrokerSettings, Identity, connector
from tests.harness import Mosquitto, eventually, wait_until

pytestmark = pytest.mark.e2e


def client(broker, name="client"):
    return connector(BrokerSettings(host=broker.host, port=broker.port))(Identity(name))


async def test_broker_qos1_there_and_back_is_under_five_milliseconds(broker):
    took_ms = []
    async with client(broker) as connection:
        await connection.subscribe(["t/echo"])
        messages = connection.messages()
        for _ in range(100):
            started = time.perf_counter()
            await connection.publish("t/echo", b"x" * 1000, qos=1)
            await anext(messages)
            took_ms.append((time.perf_counter() - started) * 1e3)
    print(f"median {statistics.median(took_ms):.2f} ms")
    assert statistics.median(took_ms) < 5.0


async def test_broker_divides_a_shared_subscription(broker):
    async with client(broker, "w1") as one, client(broker, "w2") as two, client(broker, "source") as source:
        await one.subscribe(["$share/workers/t/+"])
        await two.subscribe(["$share/workers/t/+"])
        got = {"one": 0, "two": 0}

        async def count(name, connection):
            async for _ in connection.messages():
                got[name] += 1

        readers = [asyncio.create_task(count("one", one)), asyncio.create_task(count("two", two))]
        for i in range(40):
            await source.publish(f"t/{i}", b"x", qos=1)
        await eventually(lambda: sum(got.values()) >= 40, timeout=10, what="all 40 messages arrived")
        for reader in readers:
            reader.cancel()
    assert sum(got.values()) == 40
    assert min(got.values()) > 0


async def test_broker_accepts_a_payload_of_a_megabyte(broker):
    async with client(broker) as connection:
        await connection.subscribe(["t/large"])
        await connection.publish("t/large", bytes(1 << 20), qos=1)
        async with asyncio.timeout(10):
            message = await anext(connection.messages())
    assert len(message.payload) == 1 << 20


async def test_mosquitto_keeps_retained_messages_through_a_kill(mosquitto):
    async with client(mosquitto) as connection:
        await connection.publish("t/kept", b"1", qos=1, retain=True)
    wait_until((mosquitto.folder / "mosquitto.db").exists, timeout=10, what="Mosquitto saves its state")
    mosquitto.kill()
    mosquitto.start()
    async with client(mosquitto) as connection:
        await connection.subscribe(["t/kept"])
        async with asyncio.timeout(5):
            assert (await anext(connection.messages())).payload == b"1"


def test_embedded_broker_says_what_it_is_and_ends_cleanly_on_sigterm(embedded_broker):
    embedded_broker.process.wait_for_log("for demonstration and development only", timeout=10)
    assert embedded_broker.process.stop() == 0


def test_embedded_broker_on_a_taken_port_ends_with_one_clear_line(embedded_broker, processes):
    second = processes.edgeloop("broker", "--port", str(embedded_broker.port), name="second-broker")
    assert second.wait(timeout=30) == 69
    assert "choose another: --port" in second.log_text()
    assert "Traceback" not in second.log_text()


def test_mosquitto_restart_keeps_the_port(mosquitto):
    port = mosquitto.port
    mosquitto.restart()
    assert mosquitto.port == port
    assert isinstance(mosquitto, Mosquitto)
    assert mosquitto.process.running
