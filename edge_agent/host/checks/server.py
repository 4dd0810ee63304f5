"""Can the local server listen where it is told to, and who could reach it there?"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

from edge_agent.host.checks.finding import Finding, fail, ok, warn
from edge_agent.server.settings import ServerSettings

_CHECK = "local server"
_TIMEOUT_S = 2.0


def check_server(server: ServerSettings, *, running: bool | None) -> Iterator[Finding]:
    """Findings on its address; `running`: the agent runs, and so the server should answer."""
    if not server.enabled:
        yield ok(_CHECK, "it is off")
        return
    if server.socket is not None:
        yield from _unix(server.socket, running=running)
        return
    if not _is_loopback(server.host):
        yield warn(_CHECK, f"it listens on {server.host} and has no login: 127.0.0.1, a socket, or a proxy with one")
    if running and server.port:
        yield from _answers(server)
    elif not running:
        yield _can_listen(server)


def _unix(path: Path, *, running: bool | None) -> Iterator[Finding]:
    if running and not path.is_socket():
        yield fail(_CHECK, f"the agent runs and {path} is not there: look at its log")
    elif not running and not path.parent.is_dir() and not path.is_relative_to("/run"):
        yield fail(_CHECK, f"the folder of {path} is not there: make it, owned by the service's account")
    else:
        yield ok(_CHECK, f"its socket is {path}")


def _answers(server: ServerSettings) -> Iterator[Finding]:
    try:
        socket.create_connection((server.host, server.port), timeout=_TIMEOUT_S).close()
    except OSError as err:
        yield fail(_CHECK, f"the agent runs and {server.host}:{server.port} does not answer ({err}): look at its log")
    else:
        yield ok(_CHECK, f"it answers at {server.host}:{server.port}")


def _can_listen(server: ServerSettings) -> Finding:
    where = f"{server.host}:{server.port}"
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((server.host, server.port))
    except OSError as err:
        if err.errno == errno.EADDRINUSE:
            return fail(_CHECK, f"something else listens at {where}: set another server.port (ss -ltnp shows what)")
        if err.errno == errno.EACCES:
            return fail(_CHECK, f"a port below 1024 is root's: set another server.port than {server.port}")
        return fail(_CHECK, f"{where} is no address of this device ({err.strerror}): correct server.host")
    return ok(_CHECK, f"{where} is free")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
