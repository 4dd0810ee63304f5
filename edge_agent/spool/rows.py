"""The spool's rows: SQLite in WAL mode, opened so that a damaged file never keeps a device from starting."""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import suppress
from pathlib import Path

from shared.errors import StorageFull

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS items (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, value REAL NOT NULL, created_s REAL NOT NULL,
    segment INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL, crc INTEGER NOT NULL,
    header BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS by_value ON items (value, number);
"""
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def open_checked(file: Path, reserve: Reserve) -> sqlite3.Connection:
    """A connection to a sound database; a damaged one is put aside, its log with it, and an empty one begun.

    SQLite needs room even to open: on a full disk the reserve gives it, so that a device starts.

    Raises:
        StorageFull: the disk is full or read-only.
    """
    try:
        try:
            return _sound(file)
        except sqlite3.OperationalError:
            reserve.give_up()
            return _sound(file)
    except (sqlite3.Error, OSError) as err:
        raise StorageFull(f"cannot open the spool {file} ({err}): is the disk full or read-only?") from err


def open_again(file: Path) -> sqlite3.Connection:
    """A further connection to a database that `open_checked` has opened; every statement commits by itself."""
    database = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        database.execute("PRAGMA wal_autocheckpoint=0")
        database.executescript(_SCHEMA)
    except sqlite3.Error:
        database.close()
        raise
    return database


def sync_file(path: Path) -> None:
    """Make a file's content durable; one that is gone is fine.

    Raises:
        OSError: the disk refused.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Reserve:
    """Space held back on the disk, given up when deleting needs it: SQLite cannot delete on a disk without any room.

    Attributes:
        held: False after `give_up`, until `hold` has it again.
    """

    def __init__(self, file: Path, size: int = 256 * 1024) -> None:
        self._file, self._size = file, size
        self.held = False
        with suppress(OSError):
            self.hold()

    def hold(self) -> None:
        """Take the space, if it is not held.

        Raises:
            OSError: the disk has not that much.
        """
        if self.held:
            return
        try:
            # Not truncated first: what the last run held is held still.
            with open(self._file, "ab") as file:
                os.posix_fallocate(file.fileno(), 0, self._size)
        except OSError:
            self._file.unlink(missing_ok=True)
            raise
        self.held = True

    def give_up(self) -> None:
        """Give the space to whoever needs it.

        Raises:
            OSError: the disk is read-only.
        """
        self.held = False
        self._file.unlink(missing_ok=True)


def _sound(file: Path) -> sqlite3.Connection:
    try:
        return _checked(open_again(file))
    except sqlite3.DatabaseError as err:
        if not _is_damage(err):
            raise
        _put_aside(file, err)
        return open_again(file)


def _checked(database: sqlite3.Connection) -> sqlite3.Connection:
    try:
        # Damage beyond the first page shows only when a row there is read, which must not be in the middle of a run.
        (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise _damage(found)
    except sqlite3.Error:
        database.close()
        raise
    return database


def _damage(what: str) -> sqlite3.DatabaseError:
    err = sqlite3.DatabaseError(what)
    err.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return err


def _is_damage(err: sqlite3.DatabaseError) -> bool:
    # The low byte is the primary code of an extended one.
    return getattr(err, "sqlite_errorcode", 0) & 0xFF in _DAMAGED


def _put_aside(file: Path, err: sqlite3.DatabaseError) -> None:
    aside = file.with_name(f"{file.name}.damaged")
    log.error("the spool %s is damaged (%s): put aside as %s, starting an empty one", file, err, aside.name)
    # The log too: SQLite would replay the old file's pages into the new one.
    for ending in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.replace(f"{file}{ending}", f"{aside}{ending}")
