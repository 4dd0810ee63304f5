import asyncio
import json
from random import Random

import pytest

from edge_agent.sinks.context import SinkContext
from edge_agent.sinks.mqtt import MqttSink
from edge_agent.sinks.settings import MqttOutcomeSettings
from shared.mqtt import BrokerSettings
from tests.sim.broker import SimulatedBroker
from tests.sim.outcomes import correction, hard, outcome
from tests.sim.served_agent import FULL_TELEMETRY

AGENTS = BrokerSettings(host="fleet", reconnect_first_s=0.001, reconnect_cap_s=0.001)
LOCAL = BrokerSettings(host="local", reconnect_first_s=0.001, reconnect_cap_s=0.001)


@pytest.fixture
def brokers():
    return {"fleet": SimulatedBroker(), "local": SimulatedBroker()}


@pytest.fixture
async def start(brokers):
    running = []

    def make(book=lambda count, in_day: None, **settings):
        context = SinkContext(
            site="home",
            device="cam-1",
            tasks=("digits",),
            broker=AGENTS,
            telemetry=lambda: FULL_TELEMETRY,
            telemetry_interval_s=30.0,
            book=book,
            rng=Random(1),
            connect=lambda broker: brokers[broker.host].connect,
        )
        sink = MqttSink(MqttOutcomeSettings(**{"topic": "plant/{task}/{kind}"} | settings), context)
        sink.task = asyncio.create_task(sink.run())
        running.append(sink.task)
        return sink

    yield make
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def stop(sink):
    sink.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sink.task


async def test_records_go_to_their_topic_as_json(start, brokers):
    sink = start()
    sink.outcome(outcome(seq=7))
    sink.correction(correction(seq=7))
    broker = brokers["fleet"]
    (first,) = await broker.wait_for("plant/digits/outcome")
    (second,) = await broker.wait_for("plant/digits/correction")
    assert json.loads(first).items() >= {"kind": "outcome", "site": "home", "device": "cam-1", "seq": 7}.items()
    assert json.loads(second)["label"] == "4"
    assert {(each.client_id, each.qos, each.retain) for each in broker.publications} == {
        ("edge-home-cam-1-outcomes", 1, False)
    }


@pytest.mark.parametrize("in_day", [False, True])
async def test_bytes_are_booked_also_of_what_is_sent_twice(start, brokers, in_day):
    booked, broker = [], brokers["fleet"]
    broker.lose_publishes(1, delivered=True, matching="plant/#")
    sink = start(book=lambda *one: booked.append(one), counts_in_day=in_day)
    sink.outcome(outcome())
    await broker.wait_for("plant/#", count=2)
    assert booked == [(len(payload), in_day) for payload in broker.published("plant/#")]


async def test_broker_of_its_own_is_used_alone(start, brokers):
    sink = start(broker=LOCAL, topic="{site}/{device}", qos=0, retain_last=True)
    sink.outcome(outcome())
    await brokers["local"].wait_for("home/cam-1")
    assert list(brokers["local"].retained) == ["home/cam-1"]
    assert brokers["local"].publications[0].qos == 0
    assert brokers["fleet"].connections_made == 0


async def test_records_wait_for_the_broker_in_order(start, brokers):
    broker = brokers["fleet"]
    broker.refuse_connections()
    sink = start(max_queued=5)
    for seq in range(8):
        sink.outcome(outcome(seq=seq))
    await asyncio.sleep(0)
    broker.accept_connections()
    got = await broker.wait_for("plant/#", count=5)
    assert [json.loads(each)["seq"] for each in got] == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("delivered", [False, True])
async def test_connection_lost_while_sending_costs_no_record(start, brokers, delivered):
    broker = brokers["fleet"]
    broker.lose_publishes(1, delivered=delivered, matching="plant/#")
    sink = start()
    for seq in range(20):
        sink.outcome(outcome(seq=seq))

    def arrived():
        return {json.loads(each)["seq"] for each in broker.published("plant/#")}

    await broker.wait_until(lambda: arrived() == set(range(20)))
    assert broker.connections_made == 2


async def test_lost_connection_is_noticed_while_nothing_goes_out(start, brokers):
    broker = brokers["fleet"]
    start()
    await broker.wait_until(lambda: broker.clients != [])
    broker.drop_connections()
    await broker.wait_until(lambda: broker.connections_made == 2)


async def test_what_waits_goes_out_when_the_agent_closes(start, brokers, caplog):
    sink, broker = start(), brokers["fleet"]
    await broker.wait_until(lambda: broker.clients != [])
    for seq in range(120):
        sink.outcome(outcome(seq=seq))
    await stop(sink)
    sink.close()
    assert {json.loads(each)["seq"] for each in broker.published("plant/#")} == set(range(120))
    assert caplog.text == ""


async def test_what_never_went_out_is_said_at_the_end(start, brokers, caplog):
    brokers["fleet"].refuse_connections()
    sink = start()
    sink.outcome(outcome())
    await stop(sink)
    sink.close()
    assert "outcomes not sent to fleet:1883 before the end: 1" in caplog.text


async def test_only_what_is_asked_for_is_sent(start, brokers):
    sink = start(only="hard")
    sink.outcome(outcome(seq=1))
    sink.outcome(hard(seq=2))
    (got,) = await brokers["fleet"].wait_for("plant/#")
    assert json.loads(got)["seq"] == 2
