"""How the times of creation moved when somebody set the device's clock: a row for each time, none of a sample changed.

Setting the clock would else rewrite every row that waits, and a sample that is put would wait for that.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

_TABLE = "CREATE TABLE IF NOT EXISTS shifts (until INTEGER NOT NULL, seconds REAL NOT NULL, latest REAL NOT NULL)"


@dataclass(frozen=True, slots=True)
class Shift:
    """Attributes:
    until: the number of the newest row that it holds for.
    seconds: what is added to the time of creation.
    latest: past which no time is moved.
    """

    until: int
    seconds: float
    latest: float


def moved(created_s: float, number: int, shifts: Sequence[Shift]) -> float:
    """A row's time of creation after all `shifts`, the oldest first."""
    for shift in shifts:
        if number <= shift.until:
            created_s = min(created_s + shift.seconds, shift.latest)
    return created_s


def read(database: sqlite3.Connection) -> list[Shift]:
    """All of them, the oldest first; raises `sqlite3.Error` when the database cannot be read."""
    if database.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'shifts'").fetchone() is None:
        return []
    return [Shift(*row) for row in database.execute("SELECT until, seconds, latest FROM shifts ORDER BY rowid")]


def oldest_s(database: sqlite3.Connection) -> float | None:
    """When the oldest row was created; None: there is none; raises like `read`."""
    past = read(database)
    if not past:
        (oldest,) = database.execute("SELECT MIN(created_s) FROM items").fetchone()
        return None if oldest is None else float(oldest)
    rows = database.execute("SELECT created_s, number FROM items")
    return min((moved(created_s, number, past) for created_s, number in rows), default=None)


def add(database: sqlite3.Connection, shifts: Sequence[Shift]) -> None:
    """Note some more, and forget those that hold for no row any more; raises `sqlite3.Error` when the disk refuses."""
    database.execute(_TABLE)
    rows = [(shift.until, shift.seconds, shift.latest) for shift in shifts]
    database.executemany("INSERT INTO shifts (until, seconds, latest) VALUES (?,?,?)", rows)
    database.execute("DELETE FROM shifts WHERE until < IFNULL((SELECT MIN(number) FROM items), until + 1)")
