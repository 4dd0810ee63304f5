"""The simulator's own MQTT client against Mosquitto, with paho at the other end."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from shared.mqtt import BrokerSettings, Identity, connector
from tests.e2e.simulated_link import open_link
from tests.harness import Mosquitto, eventually, find_mosquitto
from tests.harness.brokers import NO_MOSQUITTO

pytestmark = pytest.mark.e2e


class Listening:
    """A paho client that writes down what it hears."""

    def __init__(self, broker, *filters):
        self.connecting = connector(BrokerSettings(port=broker.port))(Identity("paho"))
        self.filters, self.heard = filters, []

    async def __aenter__(self):
        self.connection = await self.connecting.__aenter__()
        await self.connection.subscribe(self.filters)
        self.reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *error):
        self.reading.cancel()
        await asyncio.gather(self.reading, return_exceptions=True)
        await self.connecting.__aexit__(*error)

    async def _read(self):
        async for message in self.connection.messages():
            self.heard.append((message.topic, message.payload))


async def test_what_it_publishes_is_heard_by_paho(mosquitto):
    async with Listening(mosquitto, "up/#") as paho, open_link(mosquitto, "sim") as link:
        sent = [("up/small", b"x"), ("up/empty", b""), ("up/large", bytes(range(256)) * 1_200), ("up/ü/ß", b"text")]
        for topic, payload in sent:
            await link.publish(topic, payload)
        await link.publish("up/zero", b"qos 0", qos=0)
        await eventually(lambda: len(paho.heard) == 5, timeout=10, what="paho has heard all five")
        assert paho.heard == [*sent, ("up/zero", b"qos 0")]


async def test_what_paho_publishes_comes_down_in_order(mosquitto):
    async with open_link(mosquitto, "sim", "down/a", "down/b") as link, Listening(mosquitto, "nothing") as paho:
        sent = [(f"down/{'ab'[n % 2]}", bytes([n % 256]) * n * 10) for n in range(300)]
        for topic, payload in sent:
            await paho.connection.publish(topic, payload, qos=1)
        await paho.connection.publish("down/c", b"not subscribed", qos=1)
        await eventually(lambda: len(link.got) == 300, timeout=10, what="300 came down")
        assert link.got == sent


async def test_retained_message_is_there_for_who_comes_later(mosquitto):
    async with open_link(mosquitto, "sim") as link:
        await link.publish("state", b"here", retain=True)
        await link.publish("state/2", b"gone", retain=False)
    async with Listening(mosquitto, "state/#") as paho:
        await eventually(lambda: paho.heard, timeout=10, what="the retained state")
        assert paho.heard == [("state", b"here")]


async def test_broker_tells_the_will_of_who_vanishes_and_not_of_who_leaves(mosquitto):
    async with Listening(mosquitto, "will/#") as paho:
        async with open_link(mosquitto, "leaves", will=("will/leaves", b"gone")):
            pass
        async with open_link(mosquitto, "vanishes", will=("will/vanishes", b"gone")) as link:
            link.link.cut("a power cut")
        await eventually(lambda: paho.heard, timeout=10, what="a will")
        assert paho.heard == [("will/vanishes", b"gone")]


async def test_no_more_is_under_way_than_the_broker_allows(tmp_path):
    if find_mosquitto() is None:
        pytest.skip(NO_MOSQUITTO)
    with Mosquitto(tmp_path / "narrow", extra="max_inflight_messages 3") as narrow:
        async with Listening(narrow, "up") as paho, open_link(narrow, "sim") as link:
            assert link.link._window == 3
            for number in range(200):
                await link.publish("up", bytes([number]))
            await eventually(lambda: len(paho.heard) == 200, timeout=10, what="all came through")
            assert not link.why  # a broker throws out who sends more than its receive maximum


async def test_broker_that_wants_a_password_refuses_with_its_reason(tmp_path):
    if find_mosquitto() is None:
        pytest.skip(NO_MOSQUITTO)
    passwords = tmp_path / "passwords"
    passwords.write_text("")
    passwords.chmod(0o600)
    extra = f"allow_anonymous false\npassword_file {passwords}"
    with Mosquitto(tmp_path / "closed", extra=extra) as closed, pytest.raises(ConnectionError, match=r"0x8[67]"):
        await open_link(closed, "sim", username="me").__aenter__()


async def test_many_connections_fit_one_process(mosquitto):
    async with asyncio.timeout(60), AsyncExitStack() as stack:
        links = [await stack.enter_async_context(open_link(mosquitto, f"sim-{n}", f"down/{n}")) for n in range(300)]
        for n, link in enumerate(links):
            await link.publish(f"down/{(n + 1) % 300}", str(n).encode())
        await eventually(lambda: all(link.got for link in links), timeout=20, what="each heard its neighbour")
        assert [link.got[0][1] for link in links] == [str((n - 1) % 300).encode() for n in range(300)]
