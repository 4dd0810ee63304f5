"""Bytes against the MQTT 5 standard; tests/e2e/test_fleet.py holds them to Mosquitto and paho."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_service.simulate import wire
from shared.errors import MalformedFrame


def parsed(data: bytes) -> list[wire.Packet]:
    return list(wire.Splitter().feed(data))


def test_connect_has_its_flags_will_and_limits():
    packet = wire.connect("me", keepalive_s=30, receive_maximum=100, will=("t", b"gone"), username="u", password=b"p")
    assert packet == (
        b"\x10\x22\x00\x04MQTT\x05\xee\x00\x1e\x03\x21\x00\x64\x00\x02me\x00\x00\x01t\x00\x04gone\x00\x01u\x00\x01p"
    )


def test_connect_without_anything_is_a_clean_start():
    assert (
        wire.connect("me", keepalive_s=5, receive_maximum=1)
        == b"\x10\x12\x00\x04MQTT\x05\x02\x00\x05\x03!\x00\x01\x00\x02me"
    )


def test_subscribe_asks_for_quality_1_with_the_flags_that_the_standard_wants():
    assert wire.subscribe(7, ["a/b", "c"]) == b"\x82\x0d\x00\x07\x00\x00\x03a/b\x01\x00\x01c\x01"


def test_small_packets():
    assert wire.puback(258) == b"\x40\x02\x01\x02"
    assert (wire.pingreq(), wire.disconnect()) == (b"\xc0\x00", b"\xe0\x00")


def test_publish_at_quality_1_is_retained_only_when_told():
    assert wire.publish("t", b"xy", packet_id=5)[:1] == b"\x32"
    assert wire.publish("t", b"xy", packet_id=5, retain=True) == b"\x33\x08\x00\x01t\x00\x05\x00xy"
    assert wire.publish("t", b"xy") == b"\x30\x06\x00\x01t\x00xy"


def test_connack_tells_its_limits_and_other_properties_are_passed_over():
    properties = b"\x21\x00\x14\x12\x00\x02ab\x26\x00\x01k\x00\x01v\x27\x00\x00\x10\x00\x24\x01\x13\x00\x3c"
    packet = b"\x20" + bytes((3 + len(properties), 0, 0, len(properties))) + properties
    assert parsed(packet) == [wire.ConnAck(0, receive_maximum=20, keepalive_s=60)]


def test_connack_without_limits_allows_what_the_standard_does():
    assert parsed(b"\x20\x03\x00\x87\x00") == [wire.ConnAck(0x87)]


@pytest.mark.parametrize(
    ("data", "packet"),
    [
        (b"\x40\x02\x01\x02", wire.PubAck(258)),
        (b"\x40\x03\x01\x02\x97", wire.PubAck(258, 0x97)),
        (b"\x90\x05\x00\x01\x00\x01\x80", wire.SubAck(1, (1, 0x80))),
        (b"\x90\x0a\x00\x01\x05\x1f\x00\x02no\x87\x01", wire.SubAck(1, (0x87, 1))),
        (b"\x90\x89\x01\x00\x01\x84\x01\x1f\x00\x81" + b"x" * 129 + b"\x01", wire.SubAck(1, (1,))),
        (b"\xd0\x00", wire.PingResp()),
        (b"\xe0\x00", wire.Disconnect()),
        (b"\xe0\x02\x8e\x00", wire.Disconnect(0x8E)),
        (
            b"\x32\x0b\x00\x01t\x00\x05\x03\x01\x00\x01xy"[:2] + b"\x00\x01t\x00\x05\x02\x01\x01xyz",
            wire.Publish("t", b"xyz", 5),
        ),
    ],
)
def test_what_a_broker_says_is_understood(data, packet):
    assert parsed(data) == [packet]


@given(
    messages=st.lists(st.tuples(st.text(max_size=9), st.binary(max_size=300), st.integers(0, 65_535)), max_size=5),
    cuts=st.lists(st.integers(0, 1_000), max_size=8),
)
def test_packets_are_whole_wherever_the_stream_is_cut(messages, cuts):
    stream = b"".join(wire.publish(topic, payload, packet_id=number) for topic, payload, number in messages)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    splitter = wire.Splitter()
    found = [packet for a, b in pairwise(edges) for packet in splitter.feed(stream[a:b])]
    assert found == [wire.Publish(*message) for message in messages]


@given(st.binary(max_size=60))
def test_noise_is_refused_or_waits_for_more(data):
    try:
        packets = parsed(data)
    except MalformedFrame:
        return
    assert len(packets) <= len(data)


def test_packet_over_the_limit_is_refused_before_it_is_there():
    with pytest.raises(MalformedFrame, match="over the limit"):
        parsed(b"\x30\xff\xff\xff\x7f")


def test_length_without_an_end_is_refused():
    with pytest.raises(MalformedFrame, match="four bytes"):
        parsed(b"\x30\xff\xff\xff\xff\x01")


@pytest.mark.parametrize(
    "data",
    [b"\x32\x03\x00\x09t", b"\x20\x01\x00", b"\x20\x04\x00\x00\x01\x77", b"\x62\x02\x00\x01", b"\x90\x02\x00\x01"],
)
def test_packet_that_is_garbled_is_refused(data):
    with pytest.raises(MalformedFrame):
        parsed(data)
