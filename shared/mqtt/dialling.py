"""How paho reaches the broker: the address, who we are, certificates, and the socket's one option."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from shared.errors import BrokerUnavailable
from shared.mqtt.seam import Identity
from shared.mqtt.settings import BrokerSettings

CONNECT_TIMEOUT_S = 5.0


def paho_client(settings: BrokerSettings, identity: Identity) -> Client:
    """A client that is not connected yet."""
    client = Client(
        CallbackAPIVersion.VERSION2, client_id=identity.client_id, protocol=MQTTv5, reconnect_on_failure=False
    )
    client.manual_ack_set(identity.hold > 0)
    client.connect_timeout = CONNECT_TIMEOUT_S
    client.max_inflight_messages_set(settings.in_flight)
    # A QoS 1 round trip takes 44 ms without it (Nagle against delayed ACK) and under 1 ms with it.
    client.on_socket_open = lambda _client, _data, sock: sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # type: ignore[attr-defined]
    if settings.username:
        client.username_pw_set(settings.username, settings.password.get_secret_value() if settings.password else None)
    if identity.will:
        client.will_set(identity.will.topic, identity.will.payload, qos=1, retain=True)
    return client


async def reach(client: Client, settings: BrokerSettings, identity: Identity) -> Any:
    """Open the socket, which is given back, and send CONNECT; in a thread, because it blocks for a while.

    Raises:
        BrokerUnavailable: nothing is there, or a certificate does not fit.
    """
    dialling = asyncio.get_running_loop().run_in_executor(None, _dial, client, settings, identity)
    try:
        failure = await asyncio.shield(dialling)
    except asyncio.CancelledError:
        # A thread that dials cannot be stopped; whatever it gets is put down again.
        dialling.add_done_callback(lambda _: _hang_up(client))
        raise
    if failure:
        raise BrokerUnavailable(failure)
    return client.socket()


def _dial(client: Client, settings: BrokerSettings, identity: Identity) -> str:
    """What went wrong, or nothing."""
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's Properties is untyped
    properties.SessionExpiryInterval = identity.session_expiry_s
    properties.ReceiveMaximum = identity.hold or settings.in_flight
    clean_start = identity.session_expiry_s == 0
    try:
        if settings.ca_file is not None:
            cert_file = None if settings.cert_file is None else str(settings.cert_file)
            key_file = None if settings.key_file is None else str(settings.key_file)
            client.tls_set(str(settings.ca_file), cert_file, key_file)
        client.connect(
            settings.host, settings.port, settings.keepalive_s, clean_start=clean_start, properties=properties
        )
    except (OSError, ValueError) as err:
        # Not raised: an error keeps the frames that it went through, and with them the socket of a failed handshake,
        # which paho leaves open.
        return str(err) or type(err).__name__
    return ""


def _hang_up(client: Client) -> None:
    sock: Any = client.socket()
    if sock is not None:
        sock.close()
