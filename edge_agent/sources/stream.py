"""Bytes from a FIFO, a serial device, a file that grows or standard input, as they come."""

from __future__ import annotations

import errno
import os
import select
import stat
import termios
import tty
from collections.abc import Generator
from pathlib import Path
from threading import Event

from edge_agent.sources.outage import Outage
from shared.errors import SettingsError

STDIN = Path("-")

_CHUNK_BYTES = 64 * 1024
# Bytes wake their reader at once; that `stop` is set, a file has grown or a FIFO has a new writer is found by looking.
_LOOK_S = 0.25


def standard_input(stop: Event, *, fd: int = 0) -> Generator[bytes, None, None]:
    """What is written to standard input, until it ends.

    Raises:
        SettingsError: it is closed.
    """
    while not stop.is_set():
        try:
            chunk = _read(fd)
        except OSError as err:
            raise SettingsError(f"standard input cannot be read ({err.strerror}): give the agent one") from err
        if chunk == b"":
            return
        if chunk:
            yield chunk


def followed(
    path: Path, stop: Event, outage: Outage, *, baud: int | None = None, from_end: bool = True
) -> Generator[bytes, None, None]:
    """What is written to a file, for ever; empty bytes: here the stream has a gap.

    A file that is missing, or goes away, is waited for; one that is replaced or cut short is read from its beginning.

    Args:
        baud: of a serial device, which is then also set to raw.
        from_end: of a file that is there already, only what is added from now on.

    Raises:
        SettingsError: a `baud` rate that serial devices do not have.
    """
    speed = _speed(baud)
    while not stop.is_set():
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as err:
            from_end = from_end and not isinstance(err, FileNotFoundError)
            if not outage.wait(f"{path} cannot be read ({err.strerror})"):
                return
            continue
        try:
            _prepare(fd, speed, from_end=from_end)
            yield from _until_replaced(fd, path, stop, outage)
        except (OSError, termios.error) as err:
            if not outage.wait(f"{path} went away ({err})"):
                return
        finally:
            os.close(fd)
        from_end = False
        yield b""


def _until_replaced(fd: int, path: Path, stop: Event, outage: Outage) -> Generator[bytes, None, None]:
    while not stop.is_set():
        chunk = _read(fd)
        if chunk:
            outage.there()
            yield chunk
        elif chunk == b"":
            if stat.S_ISCHR(os.fstat(fd).st_mode):
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
            if _replaced(fd, path):
                return
            stop.wait(_LOOK_S)


def _read(fd: int) -> bytes | None:
    """What is there now; None: nothing yet; empty: the end, for now or for ever."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if not poll.poll(_LOOK_S * 1000):
        return None
    try:
        return os.read(fd, _CHUNK_BYTES)
    except BlockingIOError:
        return None


def _replaced(fd: int, path: Path) -> bool:
    try:
        now = path.stat()
    except FileNotFoundError:
        return False  # moved away; until there is a new one, what is added to the old one counts
    mine = os.fstat(fd)
    if (now.st_dev, now.st_ino) != (mine.st_dev, mine.st_ino):
        return True
    return stat.S_ISREG(mine.st_mode) and mine.st_size < os.lseek(fd, 0, os.SEEK_CUR)


def _prepare(fd: int, speed: int | None, *, from_end: bool) -> None:
    if speed is not None and os.isatty(fd):
        tty.setraw(fd, termios.TCSANOW)
        settings = termios.tcgetattr(fd)
        settings[4] = settings[5] = speed
        termios.tcsetattr(fd, termios.TCSANOW, settings)
    if from_end and stat.S_ISREG(os.fstat(fd).st_mode):
        os.lseek(fd, 0, os.SEEK_END)


def _speed(baud: int | None) -> int | None:
    if baud is None:
        return None
    speed = getattr(termios, f"B{baud}", None)
    if not isinstance(speed, int):
        raise SettingsError(f"a serial device has no baud = {baud}; usual are 9600, 19200, 57600 and 115200")
    return speed
