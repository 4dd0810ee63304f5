import json
import threading
from contextlib import asynccontextmanager

import numpy as np
import pytest

from edge_agent.sources.mqtt import samples
from edge_agent.sources.settings import MqttSettings
from shared.mqtt import BrokerSettings
from tests.sim.sources import Station, Watched


@pytest.fixture
def stop():
    return threading.Event()


@pytest.fixture
def station():
    return Station()


@pytest.fixture
def watched():
    return Watched(shape=(2,), dtype="float32")


def mqtt_settings(**options):
    broker = BrokerSettings(reconnect_first_s=0.001, reconnect_cap_s=0.001)
    return MqttSettings(kind="mqtt", **{"topic": "bees/+", "payload": "json", "broker": broker, **options})


def test_messages_become_samples_known_by_their_topic(watched, stop, station):
    station.broker.publish("bees/1", b"[1, 2]", retain=True)
    source = samples(mqtt_settings(), watched.context, stop, connect=station.connect)
    first = next(source)
    station.tell(station.broker.publish, "wasps/1", b"[9, 9]")
    station.tell(station.broker.publish, "bees/2", b"[3, 4]")
    second = next(source)
    stop.set()
    assert list(source) == []
    assert (first.reference, second.reference) == ("bees/1", "bees/2")
    assert [each.decode(watched.spec).tolist() for each in (first, second)] == [[1, 2], [3, 4]]
    assert station.identities == ["edge-plant-cam-digits-source-0"]
    assert station.broker.clients == []


@pytest.mark.parametrize(
    ("payload", "options"),
    [
        (np.array([1, 2], "<f4").tobytes(), {"payload": "raw"}),
        (json.dumps({"air": {"t": 1, "h": 2}, "id": 7}).encode(), {"fields": ("air.t", "air.h")}),
        (b"\x82\x01\xfb\x40\x00\x00\x00\x00\x00\x00\x00", {"payload": "cbor"}),
    ],
)
def test_payload_is_read_as_the_settings_say(watched, stop, station, payload, options):
    station.broker.publish("bees/1", payload, retain=True)
    source = samples(mqtt_settings(**options), watched.context, stop, connect=station.connect)
    assert next(source).decode(watched.spec).tolist() == [1, 2]
    stop.set()
    assert list(source) == []


def test_slow_agent_loses_the_oldest_messages(watched, stop, station):
    station.broker.publish("bees/0", b"[0, 0]", retain=True)
    source = samples(mqtt_settings(buffer=2), watched.context, stop, connect=station.connect)
    next(source)
    for number in range(1, 6):
        station.tell(station.broker.publish, f"bees/{number}", b"[1, 1]")
    watched.wait_until(lambda: watched.overrun == 3)
    assert [next(source).reference, next(source).reference] == ["bees/4", "bees/5"]
    stop.set()
    assert list(source) == []


def test_broker_that_goes_away_is_connected_to_again(watched, stop, station, caplog):
    caplog.set_level("INFO")
    station.broker.publish("bees/1", b"[1, 2]", retain=True)
    source = samples(mqtt_settings(), watched.context, stop, connect=station.connect)
    next(source)
    station.tell(station.broker.drop_connections)
    assert next(source).reference == "bees/1"
    stop.set()
    assert list(source) == []
    assert len(station.identities) == 2
    assert "connected again" in caplog.text


def test_source_that_waits_for_its_broker_is_stopped(watched, stop, station):
    station.broker.refuse_connections()
    source = samples(mqtt_settings(), watched.context, stop, connect=station.connect)
    thread = threading.Thread(target=lambda: list(source))
    thread.start()
    stop.set()
    thread.join(5)
    assert not thread.is_alive()


def test_fault_of_the_connection_is_not_taken_for_its_end(watched, stop):
    @asynccontextmanager
    async def connect(identity):
        raise ZeroDivisionError("a fault of our own")
        yield

    with pytest.raises(ZeroDivisionError):
        next(samples(mqtt_settings(), watched.context, stop, connect=connect))
