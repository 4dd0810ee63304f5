"""From settings to connections: what the rest calls to open one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.errors import BrokerUnavailable
from shared.mqtt.client import PahoConnection
from shared.mqtt.seam import Connection, Connector, Identity
from shared.mqtt.settings import BrokerSettings


def connector(settings: BrokerSettings) -> Connector:
    """Connections to the broker that the settings name."""

    @asynccontextmanager
    async def connect(identity: Identity) -> AsyncIterator[Connection]:
        connection = PahoConnection(settings, identity)
        try:
            await connection.open()
        except BrokerUnavailable as err:
            raise BrokerUnavailable(
                f"no MQTT broker answers at {settings.address} ({err}): start it, or correct [broker]"
            ) from err
        try:
            yield connection
        finally:
            await connection.close()

    return connect
