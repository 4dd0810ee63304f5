import asyncio
import sqlite3
from uuid import UUID

import numpy as np
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import bindparam, func, insert, inspect, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine

from cloud_service.errors import StoreError
from cloud_service.storage.database import _MIGRATION_LOCK, MIGRATIONS, _translated, open_database, utc_now
from cloud_service.storage.models import Device, Table, UtcTime
from cloud_service.storage.samples import SampleStore
from shared import codec
from shared.bundle import sha256
from shared.errors import SettingsError, StorageFull
from tests.sim.blobs import MemoryBlobs
from tests.sim.bundles import sample
from tests.sim.stored import new

ID = UUID(int=7)


def columns(name: str) -> dict[str, object]:
    now = utc_now()
    return {"name": name, "online": True, "agent_version": "", "tasks": {}, "first_seen": now, "last_seen": now}


def device(name: str) -> Device:
    return Device(**columns(name))


def _alembic(connection):
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def _migrate(connection, revision: str) -> None:
    from alembic import command

    command.upgrade(_alembic(connection), revision)


def _downgrade(connection) -> None:
    from alembic import command

    command.downgrade(_alembic(connection), "0001")


async def test_migrations_make_exactly_the_tables_that_the_models_declare(database):
    def columns(connection):
        found = inspect(connection)
        return {t: {c["name"] for c in found.get_columns(t)} for t in found.get_table_names()}

    async with database.reading() as session:
        stored = await (await session.connection()).run_sync(columns)
    del stored["alembic_version"]
    assert stored == {name: set(table.columns.keys()) for name, table in Table.metadata.tables.items()}


async def test_models_and_migrations_do_not_drift(database):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def differences(connection):
        return compare_metadata(MigrationContext.configure(connection), Table.metadata)

    async with database.reading() as session:
        assert await (await session.connection()).run_sync(differences) == []


async def test_sqlite_is_in_wal_mode_and_syncs_each_commit(tmp_path):
    async with open_database(f"sqlite+aiosqlite:///{tmp_path / 'wal.db'}") as database, database.reading() as session:
        assert await session.scalar(text("PRAGMA journal_mode")) == "wal"
        assert await session.scalar(text("PRAGMA synchronous")) == 2


async def test_writing_keeps_everything_or_nothing(database):
    async with database.writing() as session:
        session.add(device("a"))
    with pytest.raises(ValueError, match="halfway"):
        async with database.writing() as session:
            session.add(device("b"))
            await session.flush()
            raise ValueError("halfway")
    async with database.reading() as session:
        assert list(await session.scalars(select(Device.name))) == ["a"]


async def test_reopened_database_keeps_its_rows_and_times(new_database_url):
    async with open_database(new_database_url) as database, database.writing() as session:
        session.add(device("a"))
    async with open_database(new_database_url) as database, database.reading() as session:
        row = await session.get(Device, "a")
    assert row.first_seen.utcoffset().total_seconds() == 0


async def test_broken_database_file_is_a_store_error(tmp_path):
    (tmp_path / "bad.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(StoreError, match="not a database"):
        async with open_database(f"sqlite+aiosqlite:///{tmp_path / 'bad.db'}"):
            pass


def test_full_disk_is_told_from_other_failures():
    def failed(words):
        return OperationalError("insert", {}, sqlite3.OperationalError(words))

    assert isinstance(_translated(failed("database or disk is full")), StorageFull)
    assert isinstance(_translated(failed("no such table: x")), StoreError)


async def test_replicas_that_start_together_migrate_once(new_database_url):
    async def start() -> list[str]:
        async with open_database(new_database_url) as database, database.reading() as session:
            return list(await session.scalars(text("SELECT version_num FROM alembic_version")))

    [newest] = ScriptDirectory(MIGRATIONS).get_heads()
    assert await asyncio.gather(*(start() for _ in range(4))) == [[newest]] * 4


async def test_samples_of_the_first_release_are_there_after_the_migration(new_database_url, blobs):
    engine = create_async_engine(new_database_url)
    payload = codec.encode(sample(3))
    await blobs.put(sha256(payload), payload)
    async with engine.begin() as connection:
        await connection.run_sync(_migrate, "0001")
        await connection.execute(
            text(
                "INSERT INTO samples (id, device, task, seq, bundle_version, prediction, hardness, reason,"
                " inclusion_probability, stored_at, blob, label)"
                " VALUES (:id, 'cam-1', 'digits', 1, 'v1', 0, 0.5, 'hard', 1.0, :at, :blob, 4)"
            ).bindparams(bindparam("at", type_=UtcTime())),
            {"id": ID.hex if "sqlite" in new_database_url else ID, "at": utc_now(), "blob": sha256(payload)},
        )
    await engine.dispose()
    async with open_database(new_database_url) as database:
        store = SampleStore(database, blobs)
        row = await store.one(ID)
        assert (row.label, row.human_label, row.temperature, row.duplicates) == (4, None, 1.0, 0)
        assert np.array_equal(await store.tensor(row), sample(3))
        await store.add([new(5, device="cam-2")])
        assert (await store.purge_device("cam-1")).blobs == 1
    assert len(blobs.blobs) == 1


async def test_migrations_can_be_taken_back(new_database_url):
    async with open_database(new_database_url) as database:
        await SampleStore(database, MemoryBlobs()).add([new(1)])
    engine = create_async_engine(new_database_url)
    async with engine.begin() as connection:
        await connection.run_sync(_downgrade)
        assert await connection.scalar(text("SELECT count(*) FROM samples")) == 1
    await engine.dispose()


async def test_postgresql_syncs_each_commit_whatever_its_default(postgres):
    assert postgres.sql("SHOW synchronous_commit") == "off"
    async with open_database(postgres.url("shared"), connections=2) as database, database.reading() as session:
        assert await session.scalar(text("SHOW synchronous_commit")) == "on"


async def test_hanging_replica_loses_its_locks(postgres):
    async with open_database(postgres.url("shared"), connections=2) as database, database.reading() as session:
        for setting in ("lock_timeout", "idle_in_transaction_session_timeout"):
            assert await session.scalar(text(f"SHOW {setting}")) == "10s"


async def test_migration_waits_for_another_replicas_as_long_as_it_takes(postgres):
    url = postgres.create("waits")
    holder = create_async_engine(url)
    waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    opening = open_database(url, stuck_s=0.05)
    async with holder.begin() as connection:
        await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
        started = asyncio.create_task(opening.__aenter__())
        while not (started.done() or await connection.scalar(waiting)):
            await connection.exec_driver_sql("SELECT pg_sleep(0.01)")
        # Ten times what a replica in service waits for a lock.
        await connection.exec_driver_sql("SELECT pg_sleep(0.5)")
        assert not started.done()
    await started
    await opening.__aexit__(None, None, None)
    await holder.dispose()


async def test_turn_that_is_cancelled_or_fails_leaves_nothing_and_lets_the_next_one_in(database):
    entered = asyncio.Event()

    async def hold() -> None:
        async with database.in_turn() as connection:
            await connection.execute(insert(Device).values(**columns("a")))
            entered.set()
            await asyncio.Event().wait()

    holding = asyncio.create_task(hold())
    await entered.wait()
    holding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holding
    with pytest.raises(ValueError, match="halfway"):
        async with database.in_turn() as connection:
            await connection.execute(insert(Device).values(**columns("b")))
            raise ValueError("halfway")
    async with database.in_turn() as connection:
        await connection.execute(insert(Device).values(**columns("c")))
    async with database.reading() as session:
        assert list(await session.scalars(select(Device.name))) == ["c"]


async def test_turns_of_two_replicas_follow_one_another(database_url, database):
    events = []

    async def turn(mine, name):
        async with mine.in_turn() as connection:
            events.append(name)
            await connection.execute(insert(Device).values(**columns(name)))
            await asyncio.sleep(0)
            events.append(name)

    async with open_database(database_url) as other:
        await asyncio.gather(*(turn((database, other)[n % 2], str(n)) for n in range(6)))
    assert events[::2] == events[1::2]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql+aiomysql://host/x", "use sqlite"),
        ("sqlite:///x.db", "use sqlite"),
        ("postgresql://host/x", "asyncpg"),
        ("what is this", r"\[database\] url"),
    ],
)
async def test_database_that_the_service_does_not_use_is_named_with_a_remedy(url, words):
    with pytest.raises(SettingsError, match=words):
        async with open_database(url):
            pass


async def test_function_that_writes_is_one_transaction_and_its_failure_undoes_it(database):
    def fails(connection):
        connection.execute(insert(Device), [columns("cam")])
        raise RuntimeError("after the row")

    with pytest.raises(RuntimeError, match="after the row"):
        await database.write(fails)
    assert await database.ask(_count) == 0
    assert await database.write(lambda connection: connection.execute(insert(Device), [columns("cam")]).rowcount) == 1
    assert await database.ask(_count) == 1


async def test_functions_that_write_see_each_other_and_the_turns_between_them(database):
    async def turn(number):
        if number % 2:
            async with database.in_turn() as connection:
                await connection.run_sync(_one_more)
        else:
            await database.write(_one_more)

    await database.write(lambda connection: connection.execute(insert(Device), [columns("cam")]))
    await asyncio.gather(*(turn(number) for number in range(20)))
    assert await database.ask(lambda connection: connection.scalar(select(Device.agent_version))) == "1" * 20


async def test_function_that_the_database_refuses_raises_ours(database):
    with pytest.raises(StoreError, match="the database failed"):
        await database.ask(lambda connection: connection.exec_driver_sql("SELECT nothing FROM nowhere"))
    with pytest.raises(StoreError, match="the database failed"):
        await database.write(lambda connection: connection.exec_driver_sql("UPDATE nowhere SET nothing = 1"))


def _count(connection):
    return connection.scalar(select(func.count()).select_from(Device))


def _one_more(connection):
    now = connection.scalar(select(Device.agent_version))
    connection.execute(update(Device).values(agent_version=f"{now}1"))
