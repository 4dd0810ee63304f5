"""The database: opened, migrated and closed here; SQLite in WAL mode by default, anything SQLAlchemy speaks by URL."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from cloud_service.errors import StoreError
from cloud_service.storage.models import Table
from cloud_service.storage.sqlite import Threaded, prepare
from shared.errors import SettingsError, StorageFull

log = logging.getLogger(__name__)

T = TypeVar("T")

MIGRATIONS = Path(__file__).parent / "migrations"


# Advisory locks of PostgreSQL (section 13.3.5 of its manual), each a number of our own choice.
_TURN_LOCK = 0x65_64_67_65_01
_MIGRATION_LOCK = 0x65_64_67_65_02
# A replica that hangs or is cut off in the middle of a transaction loses it, and its locks, after this time.
_STUCK_S = 10.0
_CONNECT_S = 10
_STATEMENT_S = 30


class Database:
    """Transactions for reading and for writing.

    SQLite has one writer at a time, so this process's writers queue in here rather than in its busy loop, and each
    takes the write lock as it begins; other databases have no such queue. A commit is on the disk when `writing` or
    `in_turn` ends (`synchronous=FULL`; PostgreSQL's `synchronous_commit=on`): a device lets go after it.

    On SQLite every statement that is awaited goes to a thread and back, several times over. What is done for each
    sample is a plain function therefore, which `ask` and `write` run whole: one way to a thread and back there.
    """

    def __init__(self, engine: AsyncEngine, threaded: Threaded | None = None) -> None:
        self._engine = engine
        self._threaded = threaded
        self._writing_engine = engine.execution_options(writes=True)
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)
        self._writing_sessions = async_sessionmaker(self._writing_engine, expire_on_commit=False)
        self._one_writer: asyncio.Lock | None = asyncio.Lock() if engine.dialect.name == "sqlite" else None

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
            async with self._one_writer or nullcontext(), self._writing_sessions.begin() as session:
                yield session

    @asynccontextmanager
    async def in_turn(self) -> AsyncIterator[AsyncConnection]:
        """Like `writing`, one replica after the other: it has seen what was committed in every earlier turn.

        So numbers grow in the order of the commits, and a cursor over them misses nothing.
        """
        with _wrapped():
            async with self._one_writer or nullcontext(), self._writing_engine.begin() as connection:
                if self._one_writer is None:
                    await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_TURN_LOCK})")
                yield connection

    async def ask(self, question: Callable[[Connection], T]) -> T:
        """What a function finds that only reads; like `reading`.

        Args:
            question: may run in another thread.
        """
        with _wrapped():
            if self._threaded is not None:
                return await self._threaded.run(question, writes=False)
            async with self._engine.connect() as connection:
                return await connection.run_sync(question)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """What a function gives that is one transaction; like `in_turn`. It may be done although this is cancelled.

        Args:
            work: may run in another thread.
        """
        if self._threaded is None:
            async with self.in_turn() as connection:
                return await connection.run_sync(work)
        with _wrapped():
            async with self._one_writer or nullcontext():
                return await self._threaded.run(work, writes=True)

    def insert_or_skip(self, table: type[Table]) -> postgresql.Insert | sqlite.Insert:
        """An INSERT that leaves out rows whose unique key is there already."""
        insert = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        return insert(table).on_conflict_do_nothing()

    async def insert_new(self, session: AsyncSession, table: type[Table], rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows; one whose unique key is there already changes nothing."""
        await session.execute(self.insert_or_skip(table), [dict(row) for row in rows])


class _wrapped:  # noqa: N801  # used as a statement
    """Foreign errors become ours, once."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, _trace: object) -> None:
        # asyncpg's own errors and the system's come through while a connection is being opened.
        if isinstance(err, SQLAlchemyError | OSError) or type(err).__module__.startswith("asyncpg."):
            raise _translated(err) from err  # type: ignore[arg-type]  # it is not None


def _translated(err: BaseException) -> StorageFull | StoreError:
    cause = str(err.orig) if isinstance(err, DBAPIError) else str(err)
    # SQLite's words, and PostgreSQL's for a table, its log and class 53100 (disk_full).
    if isinstance(err, DBAPIError) and any(words in cause for words in ("disk is full", "No space left", "DiskFull")):
        return StorageFull("no space left for the database: free some space on that disk; what was stored is untouched")
    return StoreError(f"the database failed: {cause or type(err).__name__}")


@asynccontextmanager
async def open_database(url: str, *, connections: int = 8, stuck_s: float = _STUCK_S) -> AsyncIterator[Database]:
    """Open the database, bring its tables up to date, close it at the end.

    Args:
        url: SQLAlchemy's form: `sqlite+aiosqlite:///…` or `postgresql+asyncpg://…`.
        connections: held open at once, at most.
        stuck_s: a replica that hangs in the middle of a transaction loses it, and its locks, after this time; nobody
            waits longer for a lock. Migrations know no such limits: a large table takes its time.

    Raises:
        SettingsError: the URL names a driver that is not installed or that this service does not use.
        StoreError: it cannot be opened or migrated.
        StorageFull: the disk took no more.
    """
    await _bring_up_to_date(_engine(url, 1, stuck_s=None))
    engine = _engine(url, connections, stuck_s=stuck_s)
    threaded = Threaded(engine.url) if engine.dialect.name == "sqlite" else None
    try:
        yield Database(engine, threaded)
    finally:
        if threaded is not None:
            await threaded.close()
        await engine.dispose()


def utc_now() -> datetime:
    """The cloud's wall clock, which stamps what arrives."""
    return datetime.now(UTC)


async def _bring_up_to_date(engine: AsyncEngine) -> None:
    try:
        with _wrapped():
            async with engine.execution_options(writes=True).begin() as connection:
                if engine.dialect.name == "postgresql":
                    # Replicas that start together migrate one after the other; SQLite's write lock does the same.
                    await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
                await connection.run_sync(_migrate)
    finally:
        await engine.dispose()


def _engine(url: str, connections: int, *, stuck_s: float | None) -> AsyncEngine:
    """Opens nothing yet. Without `stuck_s` nothing that is done through it is limited in time."""
    try:
        driver = make_url(url).drivername
        match driver:
            case "sqlite+aiosqlite":
                engine = create_async_engine(url, connect_args={"isolation_level": None})
                prepare(engine.sync_engine)
                return engine
            case "postgresql+asyncpg":
                return create_async_engine(
                    url,
                    # A connection that the server has dropped is found before it is used, and replaced.
                    pool_pre_ping=True,
                    pool_size=connections,
                    max_overflow=0,
                    connect_args={
                        "timeout": _CONNECT_S,
                        "command_timeout": None if stuck_s is None else _STATEMENT_S,
                        "server_settings": _server_settings(stuck_s),
                    },
                )
    except (SQLAlchemyError, NoSuchModuleError) as err:
        raise SettingsError(f"[database] url: {err}; correct it") from err
    except ImportError as err:
        raise SettingsError(f"[database] url needs {err.name}: pip install 'edgeloop[postgres]'") from err
    raise SettingsError(
        f"[database] url: {driver!r} is not a database of this service: use sqlite+aiosqlite or postgresql+asyncpg"
    )


def _server_settings(stuck_s: float | None) -> dict[str, str]:
    # Whatever the server's default: a device lets go after a commit.
    settings = {"application_name": "edgeloop", "synchronous_commit": "on"}
    limit = "0" if stuck_s is None else str(round(stuck_s * 1e3))
    return settings | {"idle_in_transaction_session_timeout": limit, "lock_timeout": limit}


def _migrate(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    logging.getLogger("alembic").setLevel(logging.WARNING)
    command.upgrade(config, "head")
