"""Looks at a connection's socket, and away from it while there is no room for more.

MQTT's receive maximum should do this, and does not: Mosquitto 2.0.11 sends as many as may be held for every single
acknowledgement, and rumqttd knows no limit but its own. What is not read stays in TCP's buffers, then with the broker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

# MQTT 5, 3.12. The broker's answer is read when there is room again.
_PINGREQ = b"\xc0\x00"


class Reading:
    """Of one socket, in one event loop.

    Args:
        descriptor: the socket's; open until `stop`.
        read: called when there is something, and once whenever looking begins again.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptor: int, read: Callable[[], None]) -> None:
        self._loop, self._descriptor, self._read = loop, descriptor, read
        self._pinged_s = 0.0
        self.looking = True
        loop.add_reader(descriptor, read)

    def look(self, *, wanted: bool) -> None:
        """Look, or look away."""
        if wanted is self.looking:
            return
        self.looking = wanted
        if wanted:
            self._loop.add_reader(self._descriptor, self._read)
            self._loop.call_soon(self._read)  # what was read ahead, the socket does not announce again
        else:
            self._pinged_s = self._loop.time()
            self._loop.remove_reader(self._descriptor)

    def ping(self, sock: Any, every_s: float) -> None:
        """While looking away: tell the broker that we live, for paho cannot; it would miss the answers.

        Raises:
            OSError: the line broke.
        """
        if self._loop.time() - self._pinged_s < every_s:
            return
        try:
            sock.send(_PINGREQ)
        except BlockingIOError:
            return  # the line is full; the next time will do
        self._pinged_s = self._loop.time()

    def stop(self) -> None:
        """Look no more."""
        self.looking = False
        self._loop.remove_reader(self._descriptor)
