"""The database: opened, migrated and closed here; SQLite in WAL mode by default, anything SQLAlchemy speaks by URL."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from cloud_service.errors import StoreError
from cloud_service.storage.models import Table
from shared.errors import StorageFull

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
# Milliseconds that a SQLite connection waits for another writer.
_BUSY_MS = 10_000


class Database:
    """Sessions for reading and for writing.

    SQLite has one writer at a time, so writers queue in here rather than in its busy loop; other databases have no
    such queue. A commit is on the disk when `writing` ends (`synchronous=FULL`): a device lets go after it.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)
        self._turn: asyncio.Lock | None = asyncio.Lock() if engine.dialect.name == "sqlite" else None

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """A session that nothing is written in.

        Raises:
            StoreError: the database failed.
        """
        with _wrapped():
            async with self._sessions() as session:
                yield session

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncSession]:
        """One transaction: committed when the block ends, rolled back when it raises.

        Raises:
            StorageFull: the disk took no more; nothing of the block was stored.
            StoreError: the database failed.
        """
        with _wrapped():
            async with self._turn or nullcontext(), self._sessions.begin() as session:
                yield session

    async def insert_new(self, session: AsyncSession, table: type[Table], rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows; one whose unique key is there already changes nothing."""
        insert = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        await session.execute(insert(table).on_conflict_do_nothing(), [dict(row) for row in rows])


class _wrapped:  # noqa: N801  # used as a statement
    """Foreign errors become ours, once."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, _trace: object) -> None:
        if isinstance(err, SQLAlchemyError):
            raise _translated(err) from err


def _translated(err: SQLAlchemyError) -> StorageFull | StoreError:
    cause = str(err.orig) if isinstance(err, DBAPIError) else str(err)
    full = isinstance(err, OperationalError) and ("disk is full" in cause or "No space left" in cause)
    if full:
        return StorageFull("no space left for the database: free some space on that disk; what was stored is untouched")
    return StoreError(f"the database failed: {cause}")


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[Database]:
    """Open the database, bring its tables up to date, close it at the end.

    Raises:
        StoreError: it cannot be opened or migrated.
        StorageFull: the disk took no more.
    """
    engine = create_async_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", _set_pragmas)
    try:
        with _wrapped():
            async with engine.begin() as connection:
                await connection.run_sync(_migrate)
        yield Database(engine)
    finally:
        await engine.dispose()


def utc_now() -> datetime:
    """The cloud's wall clock, which stamps what arrives."""
    return datetime.now(UTC)


def _set_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={_BUSY_MS}", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _migrate(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    logging.getLogger("alembic").setLevel(logging.WARNING)
    command.upgrade(config, "head")
