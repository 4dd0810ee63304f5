"""The simulated broker does what MQTT 5 says; tests/e2e/test_mqtt_seam.py tells the same stories of the real ones."""

import asyncio

import pytest

from shared.errors import BrokerUnavailable, ConnectionLost
from shared.mqtt import Connection, Identity, Received, Will
from tests.sim.broker import SimulatedBroker, matches


async def take(connection: Connection, count: int) -> list[bytes]:
    received = []
    async with asyncio.timeout(5):
        async for message in connection.messages():
            received.append(message.payload)
            if len(received) == count:
                break
    return received


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("a/+/c", "a/b/c", True),
        ("+/+", "a/b", True),
        ("+", "a/b", False),
        ("a/#", "a/b/c", True),
        ("a/#", "a", True),
        ("#", "a/b", True),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
        ("a/+", "a/", True),
        ("$share/g/a", "a", False),
    ],
)
def test_filter_follows_the_standard(pattern, topic, expected):
    assert matches(pattern, topic) is expected


async def test_message_reaches_every_subscriber_once():
    broker = SimulatedBroker()
    async with broker.connect(Identity("a")) as a, broker.connect(Identity("b")) as b:
        await a.subscribe(["t/#", "t/+"])
        await b.subscribe(["t/1"])
        await b.publish("t/1", b"x", qos=1)
        await b.publish("t/2", b"y", qos=0)
        assert await take(a, 2) == [b"x", b"y"]
        assert await take(b, 1) == [b"x"]


async def test_retained_message_comes_with_the_subscription_until_it_is_cleared():
    broker = SimulatedBroker()
    broker.publish("t", b"old", retain=True)
    broker.publish("t", b"new", retain=True)
    async with broker.connect(Identity("a")) as a:
        await a.subscribe(["t", "$share/g/t"])
        assert await take(a, 1) == [b"new"]
        assert not a.inbox
        await a.publish("t", b"", qos=1, retain=True)
        assert broker.retained == {}


async def test_will_is_published_after_an_abrupt_end_only():
    broker = SimulatedBroker()
    identity = Identity("a", will=Will("state", b"gone"))
    async with broker.connect(identity):
        pass
    assert broker.published("state") == []
    async with broker.connect(identity):
        broker.drop_connections("a")
    assert broker.published("state") == [b"gone"]
    assert broker.retained == {"state": b"gone"}


async def test_persistent_session_queues_qos_1_while_it_is_away():
    broker = SimulatedBroker(max_queued=2)
    identity = Identity("a", session_expiry_s=60)
    async with broker.connect(identity) as a:
        await a.subscribe(["t"])
    for payload in (b"1", b"2", b"3"):
        broker.publish("t", payload)
    broker.publish("t", b"qos0", qos=0)
    assert (broker.queued("a"), broker.discarded) == (2, 2)
    async with broker.connect(identity) as a:
        assert await take(a, 2) == [b"1", b"2"]
    broker.restart(keep=False)
    assert broker.queued("a") == 0


async def test_clean_session_forgets_and_unread_messages_are_lost_with_the_connection():
    broker = SimulatedBroker()
    async with broker.connect(Identity("a")) as a:
        await a.subscribe(["t"])
    broker.publish("t", b"missed")
    async with broker.connect(Identity("a")) as a:
        assert not a.inbox
    async with broker.connect(Identity("p", session_expiry_s=60)) as p:
        await p.subscribe(["t"])
        broker.publish("t", b"acknowledged by the client, never read by the program")
    async with broker.connect(Identity("p", session_expiry_s=60)) as p:
        assert not p.inbox


async def test_shared_subscription_divides_and_prefers_those_present():
    broker = SimulatedBroker()
    identities = [Identity(name, session_expiry_s=60) for name in ("a", "b")]
    async with broker.connect(identities[0]) as a:
        async with broker.connect(identities[1]) as b:
            for each in (a, b):
                await each.subscribe(["$share/g/t/+"])
            for number in range(6):
                broker.publish(f"t/{number}", bytes([number]))
            assert await take(a, 3) == [b"\0", b"\2", b"\4"]
            assert await take(b, 3) == [b"\1", b"\3", b"\5"]
        for number in range(4):
            broker.publish(f"t/{number}", bytes([number]))
        assert len(await take(a, 4)) == 4
    broker.publish("t/9", b"9")
    assert broker.queued("a") + broker.queued("b") == 1


async def test_dropped_connection_ends_iterator_publish_and_subscribe():
    broker = SimulatedBroker()
    async with broker.connect(Identity("a")) as a:
        await a.subscribe(["t"])
        broker.publish("t", b"last")
        broker.drop_connections()
        seen: list[Received] = []
        with pytest.raises(ConnectionLost):
            async for message in a.messages():
                seen += [message]
        assert [message.payload for message in seen] == [b"last"]
        with pytest.raises(ConnectionLost):
            await a.publish("t", b"", qos=1)
        with pytest.raises(ConnectionLost):
            await a.subscribe(["t"])
    assert broker.clients == []


async def test_waiting_reader_is_told_of_a_drop():
    broker = SimulatedBroker()
    async with broker.connect(Identity("a")) as a:
        reader = asyncio.create_task(take(a, 1))
        await asyncio.sleep(0)
        broker.drop_connections("other")
        assert broker.clients == ["a"]
        broker.drop_connections("a")
        with pytest.raises(ConnectionLost):
            await reader


async def test_refused_connections_are_counted_down():
    broker = SimulatedBroker()
    broker.refuse_connections(1)
    with pytest.raises(BrokerUnavailable):
        async with broker.connect(Identity("a")):
            pass
    async with broker.connect(Identity("a")):
        assert broker.clients == ["a"]
    broker.refuse_connections()
    for _ in range(3):
        with pytest.raises(BrokerUnavailable):
            async with broker.connect(Identity("a")):
                pass
    broker.accept_connections()
    async with broker.connect(Identity("a")):
        assert broker.connections_made == 2


@pytest.mark.parametrize("delivered", [True, False])
async def test_lost_publish_raises_and_was_delivered_or_not(delivered):
    broker = SimulatedBroker()
    broker.lose_publishes(1, delivered=delivered, matching="t/+")
    async with broker.connect(Identity("a")) as a:
        await a.publish("other", b"fine", qos=1)
        with pytest.raises(ConnectionLost):
            await a.publish("t/1", b"x", qos=1)
    assert broker.published("t/1") == ([b"x"] if delivered else [])
    async with broker.connect(Identity("a")) as a:
        await a.publish("t/1", b"again", qos=1)
    assert broker.published("t/1")[-1] == b"again"


async def test_duplicated_delivery_comes_twice_and_then_no_more():
    broker = SimulatedBroker()
    broker.duplicate_deliveries(1, matching="t")
    async with broker.connect(Identity("a")) as a:
        await a.subscribe(["t", "u"])
        for topic in ("u", "t", "t"):
            broker.publish(topic, topic.encode())
        assert await take(a, 4) == [b"u", b"t", b"t", b"t"]
        assert not a.inbox


async def test_second_connection_of_a_client_takes_the_session_over():
    broker = SimulatedBroker()
    identity = Identity("a", session_expiry_s=60)
    async with broker.connect(identity) as first:
        await first.subscribe(["t"])
        async with broker.connect(identity) as second:
            with pytest.raises(ConnectionLost):
                await take(first, 1)
            broker.publish("t", b"x")
            assert await take(second, 1) == [b"x"]
        assert broker.clients == []


async def test_full_inbox_discards():
    broker = SimulatedBroker()
    async with broker.connect(Identity("a", max_queued=1)) as a:
        await a.subscribe(["t"])
        broker.publish("t", b"1")
        broker.publish("t", b"2")
        assert (await take(a, 1), broker.discarded) == ([b"1"], 1)


async def test_publish_to_a_filter_is_a_programmers_mistake():
    broker = SimulatedBroker()
    async with broker.connect(Identity("a")) as a:
        with pytest.raises(ValueError, match="cannot publish"):
            await a.publish("t/#", b"", qos=1)


async def test_waiting_for_messages_ends_when_they_are_there():
    broker = SimulatedBroker()
    waiting = asyncio.create_task(broker.wait_for("t/+", count=2))
    await asyncio.sleep(0)
    broker.publish("t/1", b"1")
    await asyncio.sleep(0)
    assert not waiting.done()
    broker.publish("t/2", b"2")
    assert await waiting == [b"1", b"2"]
    with pytest.raises(TimeoutError):
        await broker.wait_for("never", timeout_s=0.001)
