"""The broker's end of one connection of `cloud_service.simulate.link`, as a transport; it answers at once."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

from cloud_service.simulate import wire
from cloud_service.simulate.link import Link


class _Socket:
    def __init__(self) -> None:
        self.options: list[tuple[int, int, int]] = []

    def setsockopt(self, *option: int) -> None:
        self.options.append(option)


class WireBroker(asyncio.Transport):
    """See the module.

    Args:
        receive_maximum: what its CONNACK allows.
        acknowledges: whether it answers PUBLISH by itself; else `acknowledge` does.
        refuses: the reason code of its CONNACK.

    Attributes:
        kinds: the packet types that came, by the standard's numbers.
        published: the messages that came.
        ended: "close" or "abort".
    """

    def __init__(self, *, receive_maximum: int = 100, acknowledges: bool = True, refuses: int = 0) -> None:
        super().__init__({"socket": _Socket()})
        self.receive_maximum, self.acknowledges, self.refuses = receive_maximum, acknowledges, refuses
        self.kinds: list[int] = []
        self.published: list[wire.Publish] = []
        self.connect = b""
        self.ended = ""
        self._link: Link | None = None
        self._waiting: list[int] = []

    def attach(self, link: Link) -> None:
        """Connect, as the event loop would."""
        self._link = link
        link.connection_made(self)

    def send(self, topic: str, payload: bytes, *, packet_id: int = 9) -> None:
        """A message for the device."""
        self._say(wire.publish(topic, payload, packet_id=packet_id))

    def acknowledge(self, *, reason: int = 0) -> None:
        """PUBACK for the oldest message that has none."""
        self._say(b"\x40\x03" + struct.pack(">HB", self._waiting.pop(0), reason))

    def vanish(self) -> None:
        """The connection breaks."""
        link, self._link = self._link, None
        if link is not None:
            link.connection_lost(None)

    def write(self, data: Any) -> None:
        kind = data[0] >> 4
        self.kinds.append(kind)
        match kind:
            case 1:
                self.connect = bytes(data)
                properties = b"\x21" + struct.pack(">H", self.receive_maximum)
                self._say(b"\x20" + bytes((3 + len(properties), 0, self.refuses, len(properties))) + properties)
            case 8:
                self._say(b"\x90\x06" + data[2:4] + b"\x00\x01\x01\x01")
            case 3:
                (packet,) = wire.Splitter().feed(data)
                assert isinstance(packet, wire.Publish)
                self.published.append(packet)
                if packet.packet_id:
                    self._waiting.append(packet.packet_id)
                    if self.acknowledges:
                        self.acknowledge()
            case 12:
                self._say(b"\xd0\x00")

    def is_closing(self) -> bool:
        return bool(self.ended)

    def close(self) -> None:
        self.ended = "close"
        self.vanish()

    def abort(self) -> None:
        self.ended = "abort"
        self.vanish()

    def _say(self, data: bytes) -> None:
        link = self._link
        while link is not None and data:
            room = link.get_buffer(-1)
            part, data = data[: len(room)], data[len(room) :]
            room[: len(part)] = part
            link.buffer_updated(len(part))
