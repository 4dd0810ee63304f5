"""Our own MQTT seam against real brokers: no Nagle delay at either end (44 ms where one is left on, 1 ms without)."""

import asyncio
import statistics
import time

import pytest

from shared.mqtt import BrokerSettings, Identity, connector

pytestmark = pytest.mark.e2e


async def test_seam_qos1_round_trip_stays_under_five_milliseconds(broker):
    connect = connector(BrokerSettings(host=broker.host, port=broker.port))
    took_ms = []
    async with connect(Identity("device")) as device, connect(Identity("cloud")) as cloud:
        await cloud.subscribe(["t/up"])
        await device.subscribe(["t/down"])

        async def answer():
            async for message in cloud.messages():
                await cloud.publish("t/down", message.payload, qos=1)

        answering = asyncio.create_task(answer())
        answers = device.messages()
        for size in (64, 1_000, 20_000) * 20:
            payload = bytes(size)
            started = time.perf_counter()
            await device.publish("t/up", payload, qos=1)
            received = await anext(answers)
            took_ms.append((time.perf_counter() - started) * 1e3)
            assert received.payload == payload
        answering.cancel()
    median = statistics.median(took_ms)
    print(f"sample up and answer down: median {median:.2f} ms, worst {max(took_ms):.1f} ms")
    assert median < 5.0
