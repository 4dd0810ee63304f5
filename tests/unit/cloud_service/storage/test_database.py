import sqlite3

import pytest
from sqlalchemy import inspect, select, text
from sqlalchemy.exc import OperationalError

from cloud_service.errors import StoreError
from cloud_service.storage.database import _translated, open_database, utc_now
from cloud_service.storage.models import Device, Table
from shared.errors import StorageFull


def device(name: str) -> Device:
    now = utc_now()
    return Device(name=name, online=True, agent_version="", tasks={}, first_seen=now, last_seen=now)


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


async def test_database_is_in_wal_mode_and_syncs_each_commit(database):
    async with database.reading() as session:
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


async def test_reopened_database_keeps_its_rows_and_times(tmp_path):
    url = f"sqlite+aiosqlite:///{tmp_path / 'again.db'}"
    async with open_database(url) as database, database.writing() as session:
        session.add(device("a"))
    async with open_database(url) as database, database.reading() as session:
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
