import asyncio
import json
from random import Random

import pytest

from edge_agent.sinks.context import SinkContext
from edge_agent.sinks.home_assistant import HomeAssistantSink
from edge_agent.sinks.settings import HomeAssistantSettings
from shared.messages import Conditions
from shared.mqtt import BrokerSettings
from tests.sim.broker import SimulatedBroker
from tests.sim.outcomes import correction, outcome
from tests.sim.served_agent import FULL_TELEMETRY

NODE = "edgeloop--home--cam-1"
AVAILABILITY = "edgeloop-home/home/cam-1/availability"
STATE = "edgeloop-home/home/cam-1/state"
DIGITS = "edgeloop-home/home/cam-1/tasks/digits"
BROKER = BrokerSettings(reconnect_first_s=0.001, reconnect_cap_s=0.001)


@pytest.fixture
def broker():
    return SimulatedBroker()


class Home:
    """A sink whose rounds the test turns, one a call."""

    def __init__(self, broker, **settings):
        self.telemetry = FULL_TELEMETRY
        self.turns = asyncio.Semaphore(0)
        self.waits, self.booked = 0, []
        context = SinkContext(
            site="home",
            device="cam-1",
            tasks=("digits", "sounds"),
            broker=BROKER,
            telemetry=lambda: self.telemetry,
            telemetry_interval_s=3.0,
            book=lambda *one: self.booked.append(one),
            rng=Random(1),
            connect=lambda _: broker.connect,
        )
        self.broker = broker
        self.sink = HomeAssistantSink(HomeAssistantSettings(enabled=True, **settings), context, sleep=self.sleep)
        self.task = asyncio.create_task(self.sink.run())

    async def sleep(self, seconds):
        assert seconds == 1.0
        self.waits += 1
        self.broker._notify()
        await self.turns.acquire()

    async def settle(self):
        """Until the round that runs is over."""
        await self.broker.wait_until(lambda: self.waits > 0)

    async def turn(self, rounds=1):
        await self.settle()
        for _ in range(rounds):
            before = self.waits
            self.turns.release()
            await self.broker.wait_until(lambda n=before: self.waits > n)


@pytest.fixture
async def home(broker):
    made = []

    def start(**settings):
        made.append(Home(broker, **settings))
        return made[-1]

    yield start
    for each in made:
        each.task.cancel()
    await asyncio.gather(*(each.task for each in made), return_exceptions=True)


def configs(broker):
    return {
        topic.split("/")[3]: json.loads(payload) for topic, payload in broker.retained.items() if "/config" in topic
    }


ALL = {"temperature", "battery", "charging", "cpu", "memory", "disk", "bytes_today", "spool_items"}


async def test_device_is_announced_and_tells_its_state(home, broker):
    await home().settle()
    assert set(configs(broker)) == ALL | {"digits_prediction", "sounds_prediction"}
    assert broker.retained[AVAILABILITY] == b"online"
    assert json.loads(broker.retained[STATE])["temperature"] == 48.5
    assert all(each.retain and each.qos == 1 for each in broker.publications)
    topics = [each.topic for each in broker.publications]
    assert topics.index(AVAILABILITY) > max(i for i, topic in enumerate(topics) if topic.endswith("/config"))


async def test_bytes_are_booked(home, broker):
    mine = home(counts_in_day=True)
    await mine.settle()
    assert mine.booked == [(len(each.payload), True) for each in broker.publications]


async def test_sensor_that_the_device_lacks_is_announced_when_it_appears(home, broker):
    mine = home()
    mine.telemetry = FULL_TELEMETRY.model_copy(update={"conditions": Conditions(cpu=0.5)})
    await mine.settle()
    assert not set(configs(broker)) & {"temperature", "battery", "charging"}
    mine.telemetry = FULL_TELEMETRY
    await mine.turn(3)
    assert set(configs(broker)) >= ALL


async def test_state_is_told_once_an_interval(home, broker):
    mine = home()
    await mine.turn(2)
    assert len(broker.published(STATE)) == 1
    await mine.turn(4)
    assert len(broker.published(STATE)) == 3
    assert len(broker.published("homeassistant/#")) == len(ALL) + 2


async def test_prediction_that_changed_is_told_in_the_next_round_and_the_same_with_the_state(home, broker):
    mine = home()
    await mine.settle()
    for label in "1123":
        mine.sink.outcome(outcome(label=label))
    await mine.turn()
    mine.sink.outcome(outcome(label="3", confidence=0.5))
    await mine.turn()
    assert [json.loads(each)["label"] for each in broker.published(DIGITS)] == ["3"]
    await mine.turn()
    got = [json.loads(each) for each in broker.published(DIGITS)]
    assert [(each["label"], each["confidence"]) for each in got] == [("3", 0.75), ("3", 0.5)]


async def test_correction_of_the_last_prediction_is_told_and_an_older_one_is_not(home, broker):
    mine = home()
    older, last = outcome(label="1"), outcome(label="2")
    for each in (older, last):
        mine.sink.outcome(each)
    await mine.turn()
    mine.sink.correction(correction(sample_id=older.sample_id, label="7"))
    mine.sink.correction(correction(task="cats"))
    await mine.turn()
    mine.sink.correction(correction(sample_id=last.sample_id, label="8", confidence=0.9))
    await mine.turn()
    got = [json.loads(each) for each in broker.published(DIGITS)]
    assert [(each["label"], each["answered_by"]) for each in got] == [("2", "edge"), ("8", "cloud")]


async def test_home_assistant_that_starts_is_told_everything_anew(home, broker):
    mine = home(discovery_prefix="ha")
    mine.sink.outcome(outcome())
    await mine.turn()
    before = len(broker.published("ha/sensor/#")), len(broker.published(STATE)), len(broker.published(DIGITS))
    broker.publish("ha/status", b"offline")
    await mine.turn()
    assert len(broker.published("ha/sensor/#")) == before[0]
    broker.publish("ha/status", b"online")
    await asyncio.sleep(0)
    await mine.turn()
    after = len(broker.published("ha/sensor/#")), len(broker.published(STATE)), len(broker.published(DIGITS))
    assert after == tuple(2 * each for each in before)


async def test_entity_of_a_task_that_is_no_more_is_removed(home, broker):
    gone = f"homeassistant/sensor/{NODE}/cats_prediction/config"
    foreign = "homeassistant/sensor/edgeloop--home--cam-2/cats_prediction/config"
    broker.publish(gone, b"{}", retain=True)
    broker.publish(foreign, b"{}", retain=True)
    home()
    await broker.wait_until(lambda: gone not in broker.retained)
    assert foreign in broker.retained


async def test_sensor_that_is_silent_today_stays_announced(home, broker):
    mine = home()
    await mine.settle()
    mine.telemetry = FULL_TELEMETRY.model_copy(update={"conditions": Conditions()})
    mine.task.cancel()
    await asyncio.gather(mine.task, return_exceptions=True)
    again = home()
    again.telemetry = mine.telemetry
    await again.turn(2)
    assert set(configs(broker)) >= ALL


async def test_device_says_goodbye_and_its_will_says_it_otherwise(home, broker):
    mine = home()
    await mine.settle()
    broker.refuse_connections()
    broker.drop_connections()
    assert broker.retained[AVAILABILITY] == b"offline"
    broker.accept_connections()
    await broker.wait_until(lambda: broker.retained[AVAILABILITY] == b"online")
    mine.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await mine.task
    assert broker.retained[AVAILABILITY] == b"offline"
    assert broker.published(AVAILABILITY) == [b"online", b"offline", b"online", b"offline"]


async def test_broker_that_lost_everything_is_told_anew(home, broker):
    mine = home()
    mine.sink.outcome(outcome())
    await mine.turn()
    broker.restart(keep=False)
    await broker.wait_until(lambda: DIGITS in broker.retained)
    assert set(configs(broker)) >= ALL
