"""The service's log: one plain line an event, on stderr; chatty libraries only from warnings up."""

from __future__ import annotations

import logging
import sys

_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
# The MQTT library logs every packet and every reconnect; keep_connected says what matters of it, once.
_TAMED = {"mqtt": logging.CRITICAL, "aiomqtt": logging.CRITICAL, "paho": logging.CRITICAL}
_QUIET = ("aiohttp", "aiosqlite", "alembic", "asyncio", "sqlalchemy")


def configure(level: str) -> None:
    """Set up logging for a process of ours."""
    logging.basicConfig(level=level.upper(), format=_FORMAT, stream=sys.stderr, force=True)
    for name, threshold in _TAMED.items():
        logging.getLogger(name).setLevel(threshold)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
