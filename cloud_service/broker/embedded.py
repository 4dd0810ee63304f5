"""Starts rumqttd (PyPI: iotcore) on loopback, so that a first try needs no broker installed: `edgeloop broker`.

For demonstration and development only: it keeps everything in memory, knows no passwords, certificates or ACLs, and
therefore listens on 127.0.0.1 and nowhere else. Production uses Mosquitto (deploy/mosquitto.conf).
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import stat
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from shared.errors import BrokerUnavailable

__all__ = ["HOST", "LABEL", "broker_config", "serve"]

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
LABEL = "embedded broker (rumqttd), for demonstration and development only: memory only, no access control"

READY_TIMEOUT_S = 10.0


def serve(port: int, *, max_payload_bytes: int = 64 * 1024 * 1024, on_ready: Callable[[], None] | None = None) -> None:
    """Run the broker on 127.0.0.1:`port` until SIGTERM or SIGINT; call from the main thread.

    Calls `on_ready` once, when the port accepts connections.

    Raises:
        BrokerUnavailable: iotcore is not installed, the port is taken, or the broker did not come up.
    """
    try:
        from iotcore import IotCoreBroker
    except ImportError as err:
        raise BrokerUnavailable(
            "the embedded broker is not installed; type: pip install 'edgeloop[broker]' (or use Mosquitto)"
        ) from err
    check_port_is_free(port)
    # rumqttd reports each packet through error-level spans; only its own failures matter here, and those end it.
    for name in ("rumqttd", "tracing", "iotcore"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="edgeloop-broker-") as folder:
        config = Path(folder) / "rumqttd.toml"
        config.write_text(broker_config(port, max_payload_bytes=max_payload_bytes))
        broker = IotCoreBroker(config_path=str(config))
        run_until_signalled(broker.run_forever, lambda: announce(port, on_ready))


def broker_config(port: int, *, max_payload_bytes: int) -> str:
    """rumqttd's configuration. Small segments keep its memory small; dynamic filters allow shared subscriptions."""
    return f"""\
id = 0

[router]
max_connections = 1000
max_outgoing_packet_count = 200
max_segment_size = 4194304
max_segment_count = 8

[v5.1]
name = "loopback"
listen = "{HOST}:{port}"
next_connection_delay_ms = 1

[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = {max_payload_bytes}
max_inflight_count = 100
dynamic_filters = true
"""


def check_port_is_free(port: int) -> None:
    """Find a taken port here, where it can be said plainly; rumqttd would only log it.

    Raises:
        BrokerUnavailable: something listens on the port, or it may not be bound.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as err:
            raise BrokerUnavailable(
                f"cannot listen on {HOST}:{port} ({err}); is another broker running? choose another: --port"
            ) from err


def announce(port: int, on_ready: Callable[[], None] | None) -> None:
    """Wait until the port accepts a connection, then say so.

    Raises:
        BrokerUnavailable: it does not within READY_TIMEOUT_S.
    """
    pause = threading.Event()
    for _ in range(int(READY_TIMEOUT_S / 0.02)):
        # Before anybody connects: what was accepted earlier keeps Nagle's algorithm.
        set_nodelay_on_listener(port)
        try:
            socket.create_connection((HOST, port), timeout=1.0).close()
        except OSError:
            pause.wait(0.02)
            continue
        set_nodelay_on_listener(port)
        log.info("listening on %s:%d: %s", HOST, port, LABEL)
        if on_ready is not None:
            on_ready()
        return
    raise BrokerUnavailable(f"the embedded broker does not accept connections on {HOST}:{port}")


def set_nodelay_on_listener(port: int) -> bool:
    """Turn Nagle's algorithm off for every connection that the listener in this process will accept.

    rumqttd 0.20 leaves it on and has no setting for it: a sample up and its verdict down then take 44 ms instead of 1.
    On Linux an accepted socket inherits the option from its listener, so the listener's own descriptor is looked up.
    """
    folder = Path("/proc/self/fd")
    descriptors = [int(entry.name) for entry in folder.iterdir()] if folder.is_dir() else []
    return any(set_nodelay_if_listener(number, port) for number in descriptors)


def set_nodelay_if_listener(descriptor: int, port: int) -> bool:
    """Set the option if the descriptor is a socket that listens on HOST:`port`; whether it was."""
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return False
        candidate = socket.socket(fileno=os.dup(descriptor))
    except OSError:  # closed since the folder was read
        return False
    with candidate:
        listens = candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if not listens or candidate.family != socket.AF_INET or candidate.getsockname() != (HOST, port):
            return False
        candidate.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return True


def run_until_signalled(run: Callable[[], None], started: Callable[[], None]) -> None:
    """Run the endless `run` in a thread that dies with the process; return on the first SIGTERM or SIGINT.

    rumqttd has no way to be stopped, so the process that calls this ends soon afterwards.

    Raises:
        BrokerUnavailable: `run` came back by itself.
    """
    done = threading.Event()
    signalled = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        signalled.set()
        done.set()

    def body() -> None:
        try:
            run()
        except Exception:  # whatever the foreign code raises ends the broker, and its words belong in our log
            log.exception("the embedded broker failed")
        finally:
            done.set()

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        threading.Thread(target=body, name="rumqttd", daemon=True).start()
        started()
        done.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if not signalled.is_set():
        raise BrokerUnavailable("the embedded broker ended by itself; the log above has its reason")
