"""The socket that the local server listens on, bound before the agent starts, so that a busy port ends the start."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import socket
import stat
from pathlib import Path

from edge_agent.server.settings import ServerSettings
from shared.errors import SettingsError

log = logging.getLogger(__name__)

_BACKLOG = 128
_OWNER_AND_GROUP = 0o660
_PROBE_TIMEOUT_S = 1.0


class Listener:
    """Takes connections from the moment it is made, though nobody serves them yet.

    Attributes:
        socket: what it listens on.
        address: the URL, for a person.
    """

    def __init__(self, settings: ServerSettings) -> None:
        """Bind and listen.

        Raises:
            SettingsError: somebody else listens there, or this process may not.
        """
        self._path = settings.socket
        self.socket = _unix(self._path) if self._path is not None else _tcp(settings.host, settings.port)
        self.address = _address(self.socket)

    def close(self) -> None:
        """Take no more connections; a Unix socket's file goes. Closing twice is fine."""
        path, self._path = self._path, None
        if path is not None:
            path.unlink(missing_ok=True)
        self.socket.close()


def _address(listener: socket.socket) -> str:
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if listener.family == socket.AF_INET6 else name[0]
    return f"http://{host}:{name[1]}"


def _tcp(host: str, port: int) -> socket.socket:
    listener: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except (OSError, UnicodeError) as err:
        if listener is not None:
            listener.close()
        raise SettingsError(
            f"cannot listen on {host}:{port} ({getattr(err, 'strerror', None) or err}): change [server] host or port"
        ) from err
    if not ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback:
        log.warning("the local server on %s has no login: whoever reaches it may use it", _address(listener))
    return listener


def _unix(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _clear(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Before bind, so that nobody else can connect in between; Linux gives the file this mode, less the umask.
        os.fchmod(listener.fileno(), _OWNER_AND_GROUP)
        listener.bind(str(path))
        path.chmod(_OWNER_AND_GROUP)
        listener.listen(_BACKLOG)
    except OSError as err:
        listener.close()
        raise SettingsError(f"cannot listen on {path} ({err.strerror or err}): change [server] socket") from err
    except SettingsError:
        listener.close()
        raise
    return listener


def _clear(path: Path) -> None:
    """Remove what a killed agent left; never a socket that answers, nor a file of another kind."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise SettingsError(f"{path} is there and is no socket: remove it, or change [server] socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(_PROBE_TIMEOUT_S)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
                return
        raise SettingsError(f"another program listens on {path}: stop it, or change [server] socket")
