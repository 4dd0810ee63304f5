"""MQTT 5 as the rest sees it: connections that come back, messages as an async iterator.

settings.py   where the broker is
seam.py       what a connection can do; everything else knows `Connection` and `Connector` alone
connecting.py opens one
client.py     the connection: paho in the event loop
session.py    coming back after an outage; several tasks on one connection
"""

from shared.mqtt.connecting import connector
from shared.mqtt.seam import Connection, Connector, Glance, Identity, Received, Will
from shared.mqtt.session import keep_connected, together
from shared.mqtt.settings import BrokerSettings

__all__ = [
    "BrokerSettings",
    "Connection",
    "Connector",
    "Glance",
    "Identity",
    "Received",
    "Will",
    "connector",
    "keep_connected",
    "together",
]
