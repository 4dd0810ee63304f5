"""The service's log: one plain line an event, on stderr; chatty libraries only where they say something new."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable

_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_QUIET = ("aiohttp", "aiosqlite", "alembic", "asyncio", "sqlalchemy")
_PERIOD_S = 60.0


def configure(level: str) -> None:
    """Set up logging for a process of ours."""
    logging.basicConfig(level=level.upper(), format=_FORMAT, stream=sys.stderr, force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    mqtt = logging.getLogger("mqtt")
    mqtt.setLevel(logging.WARNING)
    mqtt.addFilter(OnlyDiscards(time.monotonic))


class OnlyDiscards(logging.Filter):
    """Of what the MQTT library says, lets through that it discards messages, once a minute.

    The rest it repeats with every packet and reconnect; `keep_connected` says what matters of that, once.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._said = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged."""
        now = self._clock()
        if "queue is full" not in record.getMessage() or now - self._said < _PERIOD_S:
            return False
        self._said = now
        record.msg, record.args = "more comes in than can be stored; discarding, the devices send it again", ()
        return True
