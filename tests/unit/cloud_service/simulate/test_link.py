import socket

import pytest

from cloud_service.simulate import wire
from cloud_service.simulate.link import Link
from tests.sim.clock import SimulatedClock
from tests.sim.wire_broker import WireBroker


class Listener:
    def __init__(self):
        self.said = []
        self.got = []
        self.why = None

    def opened(self):
        self.said.append("opened")

    def room(self):
        self.said.append("room")

    def received(self, topic, payload):
        self.got.append((topic, payload))

    def closed(self, why):
        self.said.append("closed")
        self.why = why


@pytest.fixture
def listener():
    return Listener()


@pytest.fixture
def link(listener):
    hello = wire.connect("me", keepalive_s=30, receive_maximum=10)
    return Link(listener, hello, ("a", "b", "c"), receive_maximum=10, keepalive_s=30, clock=SimulatedClock())


def test_link_opens_when_the_broker_took_it_and_its_subscriptions(link, listener):
    broker = WireBroker()
    assert not link.free
    broker.attach(link)
    assert listener.said == ["opened"]
    assert link.free
    assert broker.kinds == [1, 8]
    assert (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1) in broker.get_extra_info("socket").options


def test_link_that_the_broker_refuses_says_why_once(link, listener):
    WireBroker(refuses=0x87).attach(link)
    assert listener.said == ["closed"]
    assert "0x87" in listener.why
    assert not link.publish("t", b"", qos=1)


def test_link_sends_no_more_than_the_broker_allows_until_it_acknowledges(link, listener):
    broker = WireBroker(receive_maximum=2, acknowledges=False)
    broker.attach(link)
    assert [link.publish("t", bytes([n]), qos=1) for n in range(3)] == [True, True, False]
    broker.acknowledge(reason=0x97)
    assert listener.said == ["opened", "room"]
    assert link.refused == 1
    assert link.publish("t", b"3", qos=1)
    assert len({packet.packet_id for packet in broker.published}) == 3


def test_packet_ids_begin_anew_after_the_last_and_skip_what_is_under_way(link):
    broker = WireBroker(acknowledges=False)
    broker.attach(link)
    link.publish("t", b"", qos=1)
    link._next_id = wire.MAX_PACKET_ID
    link.publish("t", b"", qos=1)
    link.publish("t", b"", qos=1)
    link.publish("t", b"", qos=1)
    assert [packet.packet_id for packet in broker.published] == [2, wire.MAX_PACKET_ID, 1, 3]


def test_message_down_is_acknowledged_and_told(link, listener):
    broker = WireBroker()
    broker.attach(link)
    broker.send("a", b"x" * 200_000)
    assert listener.got == [("a", b"x" * 200_000)]
    assert broker.kinds[-1] == 4


def test_quality_0_needs_no_room(link):
    broker = WireBroker(receive_maximum=1, acknowledges=False)
    broker.attach(link)
    assert link.publish("t", b"", qos=1)
    assert link.publish("t", b"", qos=0)
    assert [packet.packet_id > 0 for packet in broker.published] == [True, False]


def test_leaving_in_order_says_so_and_vanishing_does_not(link, listener):
    broker = WireBroker()
    broker.attach(link)
    link.close()
    assert broker.kinds[-1] == 14
    assert (broker.ended, listener.said[-1]) == ("close", "closed")


def test_cut_link_says_nothing(link, listener):
    broker = WireBroker()
    broker.attach(link)
    link.cut("churn")
    assert 14 not in broker.kinds
    assert (broker.ended, listener.why) == ("abort", "churn")


def test_nonsense_from_the_broker_ends_the_link_with_a_reason(link, listener):
    broker = WireBroker()
    broker.attach(link)
    broker._say(b"\xf0\x00")
    assert broker.ended == "abort"
    assert "kind 15" in listener.why


def test_refused_subscription_ends_the_link(link, listener):
    broker = WireBroker()
    broker.write = lambda data: broker._say(b"\x20\x03\x00\x00\x00" if data[0] == 0x10 else b"\x90\x04\x00\x01\x00\x87")
    broker.attach(link)
    assert "subscription" in listener.why
