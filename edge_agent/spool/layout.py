"""The table of rows, and how an earlier release's is taken over."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import suppress

from edge_agent.spool.catalogue import Rank
from edge_agent.spool.connection import PAGE_BYTES, transaction
from edge_agent.spool.headers import pack
from edge_agent.spool.value import worth
from shared import messages
from shared.errors import FrameError
from shared.messages import Reason, SampleHeader

log = logging.getLogger(__name__)

LAYOUT = 2
COLUMNS = "number, id, value, created_s, segment, offset, length, crc, rank, header"
INSERT = f"INSERT INTO items ({COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)"  # noqa: S608  # fixed text
# No index but the row's own number: each would cost the flash a page for every sample put and let go.
_TABLE = """
CREATE TABLE items (
    number INTEGER PRIMARY KEY, id BLOB NOT NULL, value REAL NOT NULL, created_s REAL NOT NULL,
    segment INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL, crc INTEGER NOT NULL,
    rank INTEGER NOT NULL, header BLOB NOT NULL
)
"""
# As much at a time as fits into the reserve on a disk that is full.
_MOVED_AT_ONCE = 50
_REWRITTEN_BYTES = 4 * 1024**2

_OldRow = tuple[int, bytes, float, float, int, int, int, int, bytes]
_NewRow = tuple[int, bytes, float, float, int, int, int, int, Rank, bytes]


def lay_out(database: sqlite3.Connection, layout: int) -> None:
    """Make a database of `layout` (0: empty, or of the first releases) one of `LAYOUT`; a crash goes on where it was.

    Raises:
        sqlite3.Error: the disk is full or read-only.
    """
    if layout < LAYOUT:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        with transaction(database):
            if "items_before" not in tables:
                if "items" in tables:
                    database.execute("DROP INDEX IF EXISTS by_value")
                    database.execute("ALTER TABLE items RENAME TO items_before")
                    tables.add("items_before")
                database.execute(_TABLE)
        if "items_before" in tables:
            _take_over(database)
        with transaction(database):
            database.execute("DROP TABLE IF EXISTS items_before")
            database.execute(f"PRAGMA user_version={LAYOUT}")
    _take_small_pages(database)


def _take_over(database: sqlite3.Connection) -> None:
    query = (
        "SELECT number, id, value, created_s, segment, offset, length, crc, header FROM items_before "
        "ORDER BY number LIMIT ?"
    )
    count = 0
    while rows := database.execute(query, (_MOVED_AT_ONCE,)).fetchall():
        with transaction(database):
            database.executemany(INSERT, [_converted(row) for row in rows])
            database.execute("DELETE FROM items_before WHERE number <= ?", (rows[-1][0],))
        database.execute("PRAGMA wal_checkpoint(RESTART)")
        count += len(rows)
    log.info("%d samples that wait were taken over from the spool of an earlier release", count)


def _converted(row: _OldRow) -> _NewRow:
    number, raw_id, value, created_s, segment, offset, length, crc, header = row
    rank = Rank.HARD
    # What cannot be read stays as it is: the spool gives it up when its turn comes, and counts it.
    with suppress(FrameError):
        read = messages.decode(SampleHeader, header)
        value, header = worth(read, 0.0), pack(read)
        rank = Rank.AUDIT if read.reason is Reason.AUDIT else Rank.HARD
    return number, raw_id, value, created_s, segment, offset, length, crc, rank, header


def _take_small_pages(database: sqlite3.Connection) -> None:
    """Rewrite a database with other pages, when that is little work; else at a later start, when less waits."""
    (size,) = database.execute("PRAGMA page_size").fetchone()
    (count,) = database.execute("PRAGMA page_count").fetchone()
    (free,) = database.execute("PRAGMA freelist_count").fetchone()
    if size == PAGE_BYTES or (count - free) * size > _REWRITTEN_BYTES:
        return
    # Whatever is in the way (no room, somebody who reads), the larger pages do as well.
    with suppress(sqlite3.OperationalError):
        database.execute("PRAGMA temp_store=MEMORY")
        database.execute("PRAGMA journal_mode=DELETE")
        database.execute(f"PRAGMA page_size={PAGE_BYTES}")
        database.execute("VACUUM")
    database.execute("PRAGMA journal_mode=WAL")
