"""What a connection can do, and nothing of how: the seam between everything else and MQTT.

A lost connection is an exception out of the iterator of messages, and out of whatever waits for the broker's word.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Received:
    """A message as it came in.

    Attributes:
        number: its packet id, where its reader acknowledges it; 0: there is nothing to acknowledge (QoS 0).
    """

    topic: str
    payload: bytes
    number: int = 0


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes (QoS 1, retained) when this client vanishes."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client is.

    Attributes:
        session_expiry_s: how long the broker keeps the session and queues QoS 1 messages after a disconnect.
        max_queued: messages that came in and wait to be read; what comes on top of them is dropped.
        hold, hold_bytes: how many QoS 1 messages, and how many bytes of them, the reader takes before it acknowledges
            them (`Connection.acknowledge`): nothing more is read then, and the broker keeps the rest. It gives those
            that were not acknowledged to the session's next connection. 0: each is acknowledged as it comes in.
    """

    client_id: str
    will: Will | None = None
    session_expiry_s: int = 0
    max_queued: int = 10_000
    hold: int = 0
    hold_bytes: int = 64 * 1024**2


Glance = Callable[[Received], bool]


class Connection(Protocol):
    """An open connection; what does not say otherwise belongs to the event loop that opened it."""

    @property
    def round_trip_s(self) -> float | None:
        """From a QoS 1 publish to its acknowledgement, smoothed; None before the first. May be read in any thread."""
        ...

    def watch(self, glance: Glance) -> None:
        """Show every message to `glance` in the moment it comes in; what it takes (True) is not among `messages`.

        It is called in the loop's thread, between two packets: it must be quick, and may not use the connection.
        """
        ...

    def post(self, topic: str, payload: bytes) -> bool:
        """Send at QoS 1, at once, to know no more of it; in any thread, and never blocks.

        False: it was not sent, because the connection is lost, or in use, or has not taken the last ones yet.
        """
        ...

    async def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> None:
        """Return when the broker has it (QoS 1) or it was written (QoS 0).

        Raises:
            ConnectionLost: whether the broker has it is unknown.
        """
        ...

    async def subscribe(self, filters: Sequence[str]) -> None:
        """Ask for these topics at QoS 1.

        Raises:
            BrokerUnavailable: the broker refused one of them.
            ConnectionLost: the broker went away.
        """
        ...

    def acknowledge(self, message: Received) -> None:
        """The reader is done with a message of this connection: the broker may forget it; see `Identity.hold`.

        In any order: what goes out keeps the order in which the messages came, so one that is never acknowledged holds
        all after it. On a connection that is lost this does nothing: the broker sends the message again.
        """
        ...

    def messages(self) -> AsyncIterator[Received]:
        """What comes in, one reader at a time; raises `ConnectionLost` when the broker goes away."""
        ...


Connector = Callable[[Identity], AbstractAsyncContextManager[Connection]]
