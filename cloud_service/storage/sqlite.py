"""SQLite: how its connections behave, and functions that run whole in a thread."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event

T = TypeVar("T")

# Milliseconds that a connection waits for another writer.
_BUSY_MS = 10_000
_AGAIN_S = 0.01


class Threaded:
    """A SQLite file by Python's own driver, a function at a time, in one thread for reading and one for writing."""

    def __init__(self, url: URL) -> None:
        engine = create_engine(url.set(drivername="sqlite+pysqlite"), connect_args={"isolation_level": None})
        prepare(engine)
        self._reading, self._writing = engine, engine.execution_options(writes=True)
        self._threads = {writes: ThreadPoolExecutor(1, "database") for writes in (False, True)}

    async def run(self, function: Callable[[Connection], T], *, writes: bool) -> T:
        """What the function gives; one that writes is a transaction."""
        return await asyncio.get_running_loop().run_in_executor(
            self._threads[writes], self._done if writes else self._asked, function
        )

    async def close(self) -> None:
        """Wait for what is under way."""
        for thread in self._threads.values():
            await asyncio.to_thread(thread.shutdown)
        self._reading.dispose()

    def _asked(self, question: Callable[[Connection], T]) -> T:
        with self._reading.connect() as connection:
            return question(connection)

    def _done(self, work: Callable[[Connection], T]) -> T:
        with self._writing.begin() as connection:
            return work(connection)


def prepare(engine: Engine) -> None:
    """Have an engine's connections write ahead, sync each commit, and take the write lock as a writer begins."""
    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "begin", _begin)


def _set_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in (f"busy_timeout={_BUSY_MS}", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    _write_ahead(cursor)
    cursor.close()


def _write_ahead(cursor: Any) -> None:
    """Whoever opens a new file makes it one with a log; where two do so at once, SQLite lets neither wait."""
    for _ in range(round(_BUSY_MS / 1e3 / _AGAIN_S)):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as err:
            if "locked" not in str(err):
                raise
            time.sleep(_AGAIN_S)  # both drivers: it is over within a millisecond, and happens once in a file's life
        else:
            return
    raise sqlite3.OperationalError("database is locked")


def _begin(connection: Connection) -> None:
    # A transaction that reads first and writes later would fail where another process wrote in between: SQLite cannot
    # wait for its turn then. What only reads needs no transaction.
    if connection.get_execution_options().get("writes"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
