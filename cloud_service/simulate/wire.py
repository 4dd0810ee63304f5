"""MQTT 5 (OASIS, 2019) as bytes: what a device says, and what a broker answers; QoS 0 and 1, no topic aliases. Pure.

paho takes a thread's worth of memory for each client; a fleet of thousands in one process needs packets and nothing
else. The numbers in the comments are the standard's sections.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shared.errors import MalformedFrame

# A frame of the contract, its topic and properties fit.
MAX_PACKET_BYTES = 17 * 1024 * 1024
MAX_PACKET_ID = 65_535

_CONNECT, _CONNACK, _PUBLISH, _PUBACK = 1, 2, 3, 4
_SUBSCRIBE, _SUBACK, _PINGREQ, _PINGRESP, _DISCONNECT = 8, 9, 12, 13, 14
_SESSION_EXPIRY, _RECEIVE_MAXIMUM, _SERVER_KEEP_ALIVE = 0x11, 0x21, 0x13

# 2.2.2.2: how each property that may come in a CONNACK is laid out: its size, or one of these.
_TEXT, _PAIR = -1, -2
_PROPERTY_SIZES = {
    _SESSION_EXPIRY: 4,
    0x12: _TEXT,  # assigned client identifier
    _SERVER_KEEP_ALIVE: 2,
    0x15: _TEXT,  # authentication method
    0x16: _TEXT,  # authentication data
    0x1A: _TEXT,  # response information
    0x1C: _TEXT,  # server reference
    0x1F: _TEXT,  # reason
    _RECEIVE_MAXIMUM: 2,
    0x22: 2,  # topic alias maximum
    0x24: 1,  # maximum QoS
    0x25: 1,  # retain available
    0x26: _PAIR,  # user property
    0x27: 4,  # maximum packet size
    0x28: 1,  # wildcards available
    0x29: 1,  # subscription identifiers available
    0x2A: 1,  # shared subscriptions available
}


@dataclass(frozen=True, slots=True)
class ConnAck:
    """Whether the broker takes us: `reason` 0. `receive_maximum`: QoS 1 messages under way at once."""

    reason: int
    receive_maximum: int = MAX_PACKET_ID
    keepalive_s: int | None = None


@dataclass(frozen=True, slots=True)
class Publish:
    """A message; `packet_id` is 0 at QoS 0."""

    topic: str
    payload: bytes
    packet_id: int = 0


@dataclass(frozen=True, slots=True)
class PubAck:
    """The broker has a message; a `reason` of 0x80 and above: it has not."""

    packet_id: int
    reason: int = 0


@dataclass(frozen=True, slots=True)
class SubAck:
    """The answer to each filter: the QoS, or 0x80 and above."""

    packet_id: int
    reasons: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PingResp:
    """The broker lives."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """The broker ends the connection."""

    reason: int = 0


Packet = ConnAck | Publish | PubAck | SubAck | PingResp | Disconnect


def connect(
    client_id: str,
    *,
    keepalive_s: int,
    receive_maximum: int,
    will: tuple[str, bytes] | None = None,
    username: str | None = None,
    password: bytes | None = None,
) -> bytes:
    """CONNECT (3.1) with a clean start and no session afterwards; `will` is retained, QoS 1."""
    flags = 0x02
    rest = [_text(client_id)]
    if will is not None:
        flags |= 0x04 | 0x08 | 0x20
        rest += [b"\x00", _text(will[0]), _binary(will[1])]
    if username is not None:
        flags |= 0x80
        rest.append(_text(username))
    if password is not None:
        flags |= 0x40
        rest.append(_binary(password))
    properties = struct.pack(">BH", _RECEIVE_MAXIMUM, receive_maximum)
    head = _text("MQTT") + struct.pack(">BBH", 5, flags, keepalive_s) + _varint(len(properties)) + properties
    return _packet(_CONNECT << 4, head, *rest)


def publish(topic: str, payload: bytes, *, packet_id: int = 0, retain: bool = False) -> bytes:
    """PUBLISH (3.3): QoS 1 with a packet id, QoS 0 without."""
    qos = packet_id > 0
    number = struct.pack(">H", packet_id) if qos else b""
    return _packet(_PUBLISH << 4 | qos << 1 | retain, _text(topic), number, b"\x00", payload)


def puback(packet_id: int) -> bytes:
    """PUBACK (3.4): a message arrived."""
    return _packet(_PUBACK << 4, struct.pack(">H", packet_id))


def subscribe(packet_id: int, filters: Sequence[str]) -> bytes:
    """SUBSCRIBE (3.8) at QoS 1."""
    return _packet(
        _SUBSCRIBE << 4 | 2, struct.pack(">H", packet_id), b"\x00", *(_text(each) + b"\x01" for each in filters)
    )


def pingreq() -> bytes:
    """PINGREQ (3.12)."""
    return _packet(_PINGREQ << 4)


def disconnect() -> bytes:
    """DISCONNECT (3.14) in order: the broker forgets the will."""
    return _packet(_DISCONNECT << 4)


class Splitter:
    """Takes bytes as they come and gives whole packets."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes | memoryview) -> Iterator[Packet]:
        """The packets that are complete now; what is left waits for more.

        Raises:
            MalformedFrame: these bytes are no MQTT 5 of a broker's, or a packet is over `MAX_PACKET_BYTES`.
        """
        data = self._rest + data if self._rest else bytes(data)
        self._rest = b""
        at = 0
        while (found := _measure(data, at)) is not None:
            start, end = found
            if end > len(data):
                break
            yield _parsed(data[at], data[start:end])
            at = end
        self._rest = data[at:]


def _measure(data: bytes, at: int) -> tuple[int, int] | None:
    """Where the body of the packet at `at` begins and ends; None: its length is not known yet."""
    size = shift = 0
    for start in range(at + 1, min(at + 5, len(data))):
        size |= (data[start] & 0x7F) << shift
        shift += 7
        if data[start] < 0x80:
            if size > MAX_PACKET_BYTES:
                raise MalformedFrame(f"an MQTT packet of {size:,} bytes is over the limit of {MAX_PACKET_BYTES:,}")
            return start + 1, start + 1 + size
    if len(data) >= at + 5:
        raise MalformedFrame("an MQTT packet's length does not end within four bytes")
    return None


def _parsed(first: int, body: bytes) -> Packet:
    try:
        match first >> 4:
            case 3:
                return _published(first, body)
            case 4:
                reason = body[2] if len(body) > 2 else 0
                return PubAck(int.from_bytes(body[:2], "big"), reason)
            case 2:
                return _connected(body)
            case 9:
                size, at = _read_varint(body, 2)
                return SubAck(int.from_bytes(body[:2], "big"), tuple(body[at + size :]))
            case 13:
                return PingResp()
            case 14:
                return Disconnect(body[0] if body else 0)
    except (IndexError, struct.error, UnicodeDecodeError) as err:
        raise MalformedFrame(f"an MQTT packet of kind {first >> 4} is cut short or garbled: {err}") from err
    raise MalformedFrame(f"an MQTT packet of kind {first >> 4} is none that a broker sends to a device")


def _published(first: int, body: bytes) -> Publish:
    size = int.from_bytes(body[:2], "big")
    topic = body[2 : 2 + size].decode()
    at = 2 + size
    packet_id = 0
    if first & 0x06:
        (packet_id,) = struct.unpack_from(">H", body, at)
        at += 2
    size, at = _read_varint(body, at)
    return Publish(topic, body[at + size :], packet_id)


def _connected(body: bytes) -> ConnAck:
    reason = body[1]
    size, at = _read_varint(body, 2)
    values: dict[int, int] = {}
    end = at + size
    while at < end:
        name, width = body[at], _PROPERTY_SIZES.get(body[at])
        if width is None:
            raise MalformedFrame(f"the broker's CONNACK has the unknown property {name:#x}")
        at += 1
        if width > 0:
            values[name] = int.from_bytes(body[at : at + width], "big")
            at += width
            continue
        for _ in range(-width):
            (length,) = struct.unpack_from(">H", body, at)
            at += 2 + length
    return ConnAck(reason, values.get(_RECEIVE_MAXIMUM, MAX_PACKET_ID), values.get(_SERVER_KEEP_ALIVE))


def _packet(first: int, *parts: bytes) -> bytes:
    size = sum(map(len, parts))
    return b"".join((bytes((first,)), _varint(size), *parts))


def _varint(value: int) -> bytes:
    # 1.5.5
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(body: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _text(value: str) -> bytes:
    return _binary(value.encode())


def _binary(value: bytes) -> bytes:
    return struct.pack(">H", len(value)) + value
