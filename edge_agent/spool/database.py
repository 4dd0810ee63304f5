"""The spool's database, opened so that no damage, full disk or earlier release keeps a device from starting."""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import suppress
from pathlib import Path

from edge_agent.spool.connection import connect
from edge_agent.spool.disk import Reserve
from edge_agent.spool.layout import LAYOUT, lay_out
from shared.errors import StorageFull

log = logging.getLogger(__name__)

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def open_checked(file: Path, reserve: Reserve) -> sqlite3.Connection:
    """A connection to a sound database of this release's layout, whose rows are those that it had.

    A damaged one, or a later release's, is put aside, its log with it, and an empty one begun. SQLite needs room even
    to open: on a full disk the reserve gives it, so that a device starts.

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


def _sound(file: Path) -> sqlite3.Connection:
    try:
        return _checked(file)
    except sqlite3.DatabaseError as err:
        if not _is_damage(err):
            raise
        _put_aside(file, err)
        return _checked(file)


def _checked(file: Path) -> sqlite3.Connection:
    database = connect(file)
    try:
        # Damage beyond the first page shows only when a row there is read, which must not be in the middle of a run.
        (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise _damage(found)
        (layout,) = database.execute("PRAGMA user_version").fetchone()
        if layout > LAYOUT:
            raise _damage(f"it is of a later release: layout {layout}, this one knows {LAYOUT}")
        lay_out(database, layout)
    except (sqlite3.Error, OSError):
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
