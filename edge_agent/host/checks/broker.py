"""Can the broker be reached, believed and spoken to? Step by step, so that the first one that fails is named."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

from edge_agent.host.checks.certificates import context, expiry
from edge_agent.host.checks.finding import Finding, fail, ok, warn
from shared.errors import BrokerUnavailable
from shared.mqtt import BrokerSettings, Connection, Connector, Identity
from shared.topics import Channel, Topic

_CHECK = "broker"
_TIMEOUT_S = 5.0
_MQTT_TIMEOUT_S = 10.0
_ECHO_TIMEOUT_S = 5.0
_DOWN = (Channel.VERDICT, Channel.RECEIPT, Channel.DESIRED)
# X509_V_ERR_… of OpenSSL.
_HINTS = {
    9: "the broker's certificate is not valid yet, or this device's clock is behind",
    10: "the broker's certificate has expired, or this device's clock is ahead",
    18: "the broker signed its certificate itself: put that one into broker.ca_file",
    19: "broker.ca_file is not the authority that signed the broker's certificate",
    20: "broker.ca_file is not the authority that signed the broker's certificate",
    62: "the broker's certificate names another host than broker.host",
    64: "the broker's certificate names another address than broker.host",
}

Dial = Callable[[str, int], socket.socket]


def dial(host: str, port: int) -> socket.socket:
    """A TCP connection, or an OSError within a few seconds."""
    return socket.create_connection((host, port), timeout=_TIMEOUT_S)


def check_broker(
    broker: BrokerSettings,
    *,
    place: str,
    topics: tuple[str, str] | None,
    connect: Connector,
    now: float,
    dial: Dial = dial,
) -> Iterator[Finding]:
    """Findings on one broker.

    Args:
        place: of its table in the settings, such as `broker`.
        topics: site and device, where the device's own topics lie; None: none of them are asked for.
        connect: speaks MQTT to it.
        now: seconds since 1970.
    """
    try:
        began = time.monotonic()
        line = dial(broker.host, broker.port)
    except socket.gaierror as err:
        yield fail(_CHECK, f"the name {broker.host} is not found ({err.strerror}): check {place}.host and the DNS")
        return
    except OSError as err:
        yield fail(
            _CHECK, f"nothing answers at {broker.address} ({_why(err)}): is it running, is a firewall in between?"
        )
        return
    with line:
        yield ok(_CHECK, f"{broker.address} answers within {(time.monotonic() - began) * 1000:.0f} ms")
        if broker.ca_file is not None:
            found = list(_handshake(broker, line, now))
            yield from found
            if any(finding.level == "fail" for finding in found):
                return
    yield asyncio.run(_speak(connect, topics))


def _handshake(broker: BrokerSettings, line: socket.socket, now: float) -> Iterator[Finding]:
    try:
        with context(broker).wrap_socket(line, server_hostname=broker.host) as secured:
            peer: Any = secured.getpeercert()
            yield expiry("the broker's certificate", str(peer["notAfter"]), now)
    except ssl.SSLCertVerificationError as err:
        yield fail(_CHECK, f"{_HINTS.get(err.verify_code, err.verify_message)}; until then nothing is sent")
    except (ssl.SSLError, OSError) as err:
        yield fail(
            _CHECK,
            f"no TLS with {broker.address} ({_why(err)}): is this its TLS port, and does it take our certificate?",
        )


def _why(err: OSError) -> str:
    return err.strerror or str(err) or type(err).__name__


async def _speak(connect: Connector, topics: tuple[str, str] | None) -> Finding:
    """Connect beside the running agent, and see whether the device's own topics are its own."""
    site, device = topics or ("-", "-")
    identity = Identity(f"edge-{site}-{device}-doctor")
    probe = str(Topic(site, device, Channel.STATE)).rpartition("/")[0] + "/doctor" if topics else ""
    try:
        async with asyncio.timeout(_MQTT_TIMEOUT_S), connect(identity) as connection:
            if not topics:
                return ok(_CHECK, "the broker takes an MQTT connection")
            await connection.subscribe([str(Topic(site, device, channel)) for channel in _DOWN])
            await connection.subscribe([probe])
            took_ms = await _echo_ms(connection, probe)
            if took_ms is None:
                allow = probe.removesuffix("doctor") + "#"
                return warn(
                    _CHECK, f"the broker takes and does not give back: does its access list allow {allow} both ways?"
                )
            return ok(_CHECK, f"the broker lets the device publish and subscribe; there and back in {took_ms:.0f} ms")
    except TimeoutError:
        return fail(
            _CHECK, f"the broker did not answer within {_MQTT_TIMEOUT_S:.0f} s: is it overloaded, or no broker?"
        )
    except BrokerUnavailable as err:
        return fail(_CHECK, f"the broker answers and refuses us ({err}): check its access list, username and password")


async def _echo_ms(connection: Connection, probe: str) -> float | None:
    """How long a message takes to the broker and back; None: it does not come."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(_ECHO_TIMEOUT_S):
            await connection.publish(probe, b"", qos=1)
            async for message in connection.messages():
                if message.topic == probe:
                    return (time.monotonic() - began) * 1000
    except TimeoutError:
        return None
    return None
