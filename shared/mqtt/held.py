"""What is held: which messages may be acknowledged now, and whether there is room for more. Pure."""

from __future__ import annotations

from collections import deque


class Held:
    """The QoS 1 messages of one connection that came in and were not acknowledged.

    MQTT wants PUBACKs in the order in which the PUBLISH packets came ([MQTT-4.6.0-2]), so one that is done waits for
    all before it. rumqttd ends a connection that does it otherwise, Mosquitto does not mind.

    Args:
        limit, limit_bytes: beyond either there is no room; one message is always taken, however large.
    """

    def __init__(self, limit: int, limit_bytes: int) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._order: deque[tuple[int, int]] = deque()
        self._done: set[int] = set()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._order)

    @property
    def full(self) -> bool:
        """Whether there is no room for more."""
        return len(self._order) >= self._limit or self._bytes >= self._limit_bytes

    def came(self, number: int, size: int) -> None:
        """A message of this packet id and so many bytes came in; no two that are held have the same id."""
        self._order.append((number, size))
        self._bytes += size

    def done(self, number: int) -> list[int]:
        """Its reader is done with one; gives those that go out now, in order."""
        self._done.add(number)
        ready: list[int] = []
        while self._order and self._order[0][0] in self._done:
            first, size = self._order.popleft()
            self._bytes -= size
            self._done.remove(first)
            ready.append(first)
        return ready
