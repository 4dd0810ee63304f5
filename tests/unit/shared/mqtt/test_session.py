import asyncio
import gc
import logging
import re
import socket
import tracemalloc
from random import Random

import pytest

from shared.errors import BrokerUnavailable, ConnectionLost
from shared.mqtt import BrokerSettings, Identity, connector, keep_connected, together
from tests.sim.broker import SimulatedBroker
from tests.sim.clock import SimulatedClock

SETTINGS = BrokerSettings(reconnect_first_s=0.5, reconnect_cap_s=8.0)
ME = Identity("me")
DAY_S = 86_400.0
BOUNDS = [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


class Highest(Random):
    """Draws the upper bound, so that a test sees the bounds themselves."""

    def uniform(self, a: float, b: float) -> float:
        return b


def stay(broker, session, clock, *, settings=SETTINGS, rng=None):
    return keep_connected(
        broker.connect, ME, session, settings=settings, rng=rng or Highest(), sleep=clock.sleep, clock=clock
    )


def said(caplog):
    return [
        (record.levelname, record.getMessage()) for record in caplog.records if record.name.startswith("shared.mqtt")
    ]


async def test_session_that_returns_ends_it(caplog):
    caplog.set_level(logging.INFO)
    broker, clock, seen = SimulatedBroker(), SimulatedClock(), []

    async def session(connection):
        await connection.publish("t", b"x", qos=1)
        seen.append(broker.clients)

    await stay(broker, session, clock)
    assert (seen, broker.published("t"), broker.clients, clock.sleeps) == ([["me"]], [b"x"], [], [])
    assert said(caplog) == []


async def test_outage_is_logged_once_and_its_end_once(caplog):
    caplog.set_level(logging.INFO)
    broker, clock = SimulatedBroker(), SimulatedClock()
    broker.refuse_connections(20)
    await stay(broker, lambda connection: asyncio.sleep(0), clock)
    (first, warning), (second, end) = said(caplog)
    assert (first, second) == ("WARNING", "INFO")
    assert re.search(r"broker 127\.0\.0\.1:1883: .*nothing is lost, trying again", warning)
    assert end == "broker 127.0.0.1:1883: connected again"
    assert len(clock.sleeps) == 20


async def test_waits_grow_to_the_cap_during_an_outage():
    broker, clock = SimulatedBroker(), SimulatedClock()
    broker.refuse_connections(7)
    await stay(broker, lambda connection: asyncio.sleep(0), clock)
    assert clock.sleeps == BOUNDS


async def test_waits_are_jittered_within_their_bounds():
    broker, clock = SimulatedBroker(), SimulatedClock()
    broker.refuse_connections(len(BOUNDS))
    await stay(broker, lambda connection: asyncio.sleep(0), clock, rng=Random(5))
    assert all(0 <= wait <= bound for wait, bound in zip(clock.sleeps, BOUNDS, strict=True))
    assert len(set(clock.sleeps)) == len(BOUNDS)


async def test_each_of_two_outages_is_logged_and_the_waits_start_anew(caplog):
    caplog.set_level(logging.INFO)
    broker, clock = SimulatedBroker(), SimulatedClock()
    sessions = 0

    async def session(connection):
        nonlocal sessions
        sessions += 1
        if sessions == 3:
            return
        clock.advance(3_600.0)
        broker.refuse_connections(3)
        broker.drop_connections()
        await connection.publish("t", b"", qos=1)

    await stay(broker, session, clock)
    assert [level for level, _ in said(caplog)] == ["WARNING", "INFO"] * 2
    assert clock.sleeps == [0.5, 1.0, 2.0, 4.0] * 2


async def test_broker_that_accepts_and_drops_at_once_is_not_hammered():
    broker, clock = SimulatedBroker(), SimulatedClock()
    sessions = 0

    async def session(connection):
        nonlocal sessions
        sessions += 1
        if sessions < 8:
            clock.advance(0.01)
            raise BrokerUnavailable("the broker refused the subscription")

    await stay(broker, session, clock)
    assert clock.sleeps == BOUNDS


async def test_weeks_without_a_broker_cost_neither_memory_nor_ever_longer_waits():
    broker, clock = SimulatedBroker(), SimulatedClock()
    settings = BrokerSettings(reconnect_first_s=0.5, reconnect_cap_s=300.0)
    broker.refuse_connections()

    async def session(connection):
        raise AssertionError("there is no broker")

    async def live(until_s):
        while clock.now < until_s:
            await asyncio.sleep(0)

    staying = asyncio.create_task(stay(broker, session, clock, settings=settings, rng=Random(3)))
    tracemalloc.start()
    try:
        await live(clock.now + DAY_S)
        clock.sleeps.clear()
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        await live(clock.now + 21 * DAY_S)
        tries, longest = len(clock.sleeps), max(clock.sleeps)
        clock.sleeps.clear()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    staying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await staying
    assert after - before < 20_000
    assert longest <= 300.0
    # One in 150 s on average: full jitter halves the longest wait.
    assert tries == pytest.approx(21 * DAY_S / 150, rel=0.05)


async def test_lost_message_iterator_leads_to_a_new_connection():
    broker, got = SimulatedBroker(), []
    broker.publish("t", b"first", retain=True)

    async def session(connection):
        await connection.subscribe(["t"])
        async for message in connection.messages():
            got.append(message.payload)
            if message.payload == b"end":
                return
            broker.drop_connections()
            broker.publish("t", b"end", retain=True)

    await stay(broker, session, SimulatedClock())
    assert (got, broker.connections_made) == ([b"first", b"end"], 2)


async def test_error_of_the_session_comes_out():
    broker = SimulatedBroker()

    async def session(connection):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await stay(broker, session, SimulatedClock())
    assert broker.clients == []


async def test_cancelling_closes_the_connection_in_order():
    broker = SimulatedBroker()

    async def session(connection):
        await asyncio.get_running_loop().create_future()

    running = asyncio.create_task(stay(broker, session, SimulatedClock()))
    await broker.wait_until(lambda: broker.clients == ["me"])
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert broker.clients == []


async def test_session_of_several_tasks_reconnects_when_one_loses_the_broker():
    broker, clock = SimulatedBroker(), SimulatedClock()

    async def receive(connection):
        async for _ in connection.messages():
            pass

    async def drop():
        broker.drop_connections()

    async def session(connection):
        if broker.connections_made < 3:
            await together({"receive": receive(connection), "other": receive(connection), "drop": drop()})

    await stay(broker, session, clock)
    assert (broker.connections_made, len(clock.sleeps)) == (3, 2)


async def test_together_ends_when_all_have():
    done = []

    async def note(word):
        done.append(word)

    await together({"a": note("a"), "b": note("b")})
    assert sorted(done) == ["a", "b"]


async def test_together_does_not_hide_an_error_behind_a_lost_broker():
    async def lose():
        raise ConnectionLost("gone")

    async def fail():
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught:
        await together({"lose": lose(), "fail": fail()})
    assert caught.group_contains(ZeroDivisionError)


async def test_together_takes_a_lost_broker_out_of_nested_groups():
    async def lose():
        raise ConnectionLost("gone")

    async def nested():
        async with asyncio.TaskGroup() as group:
            group.create_task(lose())

    with pytest.raises(ConnectionLost, match="gone"):
        await together({"outer": nested()})


async def test_missing_broker_is_named_with_its_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(BrokerUnavailable, match=rf"no MQTT broker answers at 127\.0\.0\.1:{port} .*start it"):
        async with connector(BrokerSettings(port=port))(ME):
            pass


async def test_connections_that_break_at_once_again_and_again_are_told_as_two_clients_of_one_id(caplog):
    caplog.set_level(logging.ERROR)
    broker, clock = SimulatedBroker(), SimulatedClock()
    lives = []

    async def session(connection):
        lives.append(connection)
        if len(lives) < 8:
            broker.drop_connections("me")
            await connection.publish("t", b"", qos=1)

    await stay(broker, session, clock)
    assert [text.partition(": does another client use the id me?")[1] != "" for _, text in said(caplog)] == [True]


async def test_connections_that_live_and_break_or_never_come_are_no_two_clients_of_one_id(caplog):
    caplog.set_level(logging.ERROR)
    broker, clock = SimulatedBroker(), SimulatedClock()
    lives = []

    async def session(connection):
        lives.append(connection)
        if len(lives) < 8:
            clock.advance(60)
            broker.drop_connections("me")
            broker.refuse_connections(5)
            await connection.publish("t", b"", qos=1)

    await stay(broker, session, clock)
    assert said(caplog) == []
