"""Tells systemd how the service is: the sd_notify(3) protocol, without a dependency.

systemd names a datagram socket in NOTIFY_SOCKET and takes lines of `KEY=value`. Where it named none (a shell, a
container, a test) every call does nothing.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

_SEND_TIMEOUT_S = 1.0


class Notifier:
    """One service's line to systemd.

    Args:
        address: of the socket: a path, or `@name` in the abstract namespace; None: nobody listens.
        watchdog_s: systemd ends a service that was silent for this long; None: it does not watch.
        monotonic_ns: CLOCK_MONOTONIC, which systemd compares with its own.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        watchdog_s: float | None = None,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._address = address
        self._monotonic_ns = monotonic_ns
        self._failing = False
        self.watchdog_s = watchdog_s

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Notifier:
        """As systemd told this process; a watchdog that was meant for another process is not ours to feed."""
        pid = environ.get("WATCHDOG_PID")
        usec = environ.get("WATCHDOG_USEC", "")
        mine = pid in (None, str(os.getpid()))
        watchdog_s = int(usec) / 1e6 if mine and usec.isdecimal() and int(usec) > 0 else None
        return cls(environ.get("NOTIFY_SOCKET") or None, watchdog_s=watchdog_s)

    def ready(self, status: str) -> None:
        """The service answers: at the start, and again after `reloading`."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self, status: str) -> None:
        """The service reads its settings anew; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={self._monotonic_ns() // 1000}", f"STATUS={status}")

    def stopping(self, status: str) -> None:
        """The service winds down."""
        self._send("STOPPING=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={status}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        # A leading NUL is how the kernel spells the abstract namespace.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        # One line a variable: what a message says may not begin another.
        payload = "\n".join(" ".join(line.splitlines()) for line in lines).encode()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
                line.settimeout(_SEND_TIMEOUT_S)
                line.sendto(payload, address)
        except OSError as err:
            if not self._failing:
                log.error("systemd is not reached at %s (%s); the service goes on", self._address, err)
            self._failing = True
            return
        self._failing = False
