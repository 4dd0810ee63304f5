"""How the spool speaks to SQLite: small pages, a write-ahead log that only we empty, transactions that end."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# A commit writes each page that it touches: with pages of 4,096 bytes a row of 150 costs four times as much.
PAGE_BYTES = 1024


def connect(file: Path) -> sqlite3.Connection:
    """A connection whose every statement commits by itself; usable from any thread.

    Raises:
        sqlite3.Error: the file is damaged, or the disk full or read-only.
    """
    database = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    try:
        database.execute(f"PRAGMA page_size={PAGE_BYTES}")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        database.execute("PRAGMA wal_autocheckpoint=0")
        # Some builds overwrite whatever is deleted; this keeps that to pages that are written anyway.
        database.execute("PRAGMA secure_delete=FAST")
    except sqlite3.Error:
        database.close()
        raise
    return database


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All of the statements inside, or none; an error inside goes on after the rollback."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:  # a full disk may have ended it already
            database.execute("ROLLBACK")
        raise
