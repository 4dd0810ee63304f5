"""One device's connection to the broker: about 4 KB, no task and no thread of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from cloud_service.simulate import wire
from shared.errors import FrameError

_BUFFER_BYTES = 65_536
_REFUSED = 0x80
_SUBSCRIBE_ID = 1


class Peer(Protocol):
    """Whoever uses a link; called in the event loop, must be quick."""

    def opened(self) -> None:
        """The broker took us and our subscriptions."""
        ...

    def received(self, topic: str, payload: bytes) -> None:
        """A message came down."""
        ...

    def room(self) -> None:
        """The broker acknowledged a message: there is room for the next one."""
        ...

    def closed(self, why: str) -> None:
        """The connection is gone; said once, also when it never opened."""
        ...


class Link(asyncio.BufferedProtocol):
    """See the module. All links of a process read into one buffer, which is taken apart before the next one reads.

    Args:
        hello: a CONNECT packet.
        filters: what to subscribe to when the broker took it.
        receive_maximum: QoS 1 messages under way at most, if the broker allows as many.
        clock: seconds, monotonic.

    Attributes:
        refused: messages that the broker did not take.
        last_sent, last_heard: by the clock.
    """

    __slots__ = (
        "_clock",
        "_filters",
        "_hello",
        "_in_flight",
        "_next_id",
        "_open",
        "_peer",
        "_splitter",
        "_transport",
        "_why",
        "_window",
        "keepalive_s",
        "last_heard",
        "last_sent",
        "refused",
    )
    _shared = memoryview(bytearray(_BUFFER_BYTES))

    def __init__(
        self,
        peer: Peer,
        hello: bytes,
        filters: Sequence[str],
        *,
        receive_maximum: int,
        keepalive_s: int,
        clock: Callable[[], float],
    ) -> None:
        self._peer = peer
        self._hello = hello
        self._filters = filters
        self._window = receive_maximum
        self._clock = clock
        self._splitter = wire.Splitter()
        self._transport: asyncio.Transport | None = None
        self._in_flight: set[int] = set()
        self._next_id = _SUBSCRIBE_ID
        self._open = False
        self._why = ""
        self.keepalive_s = keepalive_s
        self.last_heard = self.last_sent = clock()
        self.refused = 0

    @property
    def free(self) -> bool:
        """Whether a QoS 1 message may be sent now."""
        return self._open and len(self._in_flight) < self._window

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> bool:
        """Send; False: not now, there is no connection or no room."""
        if qos == 0:
            return self._open and self._write(wire.publish(topic, payload, retain=retain))
        if not self.free:
            return False
        packet_id = self._new_id()
        self._in_flight.add(packet_id)
        return self._write(wire.publish(topic, payload, packet_id=packet_id, retain=retain))

    def ping(self) -> None:
        """Ask for a sign of life."""
        self._write(wire.pingreq())

    def close(self) -> None:
        """Leave in order: the broker forgets the will."""
        if self._transport is not None:
            self._write(wire.disconnect())
            self._transport.close()

    def cut(self, why: str) -> None:
        """Vanish, as in a power cut: the broker publishes the will."""
        self._why = self._why or why
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        # A QoS 1 exchange takes 44 ms without it (Nagle against delayed ACK).
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport = transport
        self._write(self._hello)
        self._hello = b""  # ten thousand of them count

    def connection_lost(self, exc: Exception | None) -> None:
        self._open = False
        self._transport = None
        self._peer.closed(self._why or str(exc or "the broker closed the connection"))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._shared

    def buffer_updated(self, nbytes: int) -> None:
        self.last_heard = self._clock()
        try:
            for packet in self._splitter.feed(self._shared[:nbytes]):
                self._take(packet)
        except FrameError as err:
            self.cut(str(err))

    def _take(self, packet: wire.Packet) -> None:
        match packet:
            case wire.Publish():
                if packet.packet_id:
                    self._write(wire.puback(packet.packet_id))
                self._peer.received(packet.topic, packet.payload)
            case wire.PubAck():
                self._in_flight.discard(packet.packet_id)
                self.refused += packet.reason >= _REFUSED
                self._peer.room()
            case wire.ConnAck():
                self._greeted(packet)
            case wire.SubAck():
                self._subscribed(packet)
            case wire.Disconnect():
                self.cut(f"the broker ends the connection, reason {packet.reason:#x}")
            case wire.PingResp():
                pass

    def _greeted(self, packet: wire.ConnAck) -> None:
        if packet.reason:
            self.cut(f"the broker refuses the connection, reason {packet.reason:#x}")
            return
        self._window = min(self._window, packet.receive_maximum)
        self.keepalive_s = packet.keepalive_s or self.keepalive_s
        self._write(wire.subscribe(self._new_id(), self._filters))
        self._filters = ()

    def _subscribed(self, packet: wire.SubAck) -> None:
        if any(reason >= _REFUSED for reason in packet.reasons):
            self.cut(f"the broker refuses a subscription, reasons {[hex(reason) for reason in packet.reasons]}")
            return
        self._open = True
        self._peer.opened()

    def _new_id(self) -> int:
        packet_id = self._next_id
        while packet_id in self._in_flight:
            packet_id = packet_id % wire.MAX_PACKET_ID + 1
        self._next_id = packet_id % wire.MAX_PACKET_ID + 1
        return packet_id

    def _write(self, data: bytes) -> bool:
        if self._transport is None or self._transport.is_closing():
            return False
        self.last_sent = self._clock()
        self._transport.write(data)
        return True
