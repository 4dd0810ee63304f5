"""Each test of the store runs on SQLite and on a private PostgreSQL; where that is missing it skips and says so."""

import itertools

import pytest

from cloud_service.storage.database import open_database
from cloud_service.storage.models import Table
from tests.harness.postgres import FAST, NO_POSTGRES, Postgres, find_postgres

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def postgres():
    """One server for all tests."""
    if find_postgres() is None:
        pytest.skip(NO_POSTGRES)
    with Postgres(settings=FAST) as server:
        server.create("shared")
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path):
    """Of a database that may have tables and has no rows."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'edgeloop.db'}"
    return request.getfixturevalue("postgres").url("shared")


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database_url(request, tmp_path):
    """Of a database without tables; a PostgreSQL one takes a moment to make."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'new.db'}"
    return request.getfixturevalue("postgres").create(f"new{next(_NUMBERS)}")


@pytest.fixture
async def database(database_url):
    async with open_database(database_url) as opened:
        yield opened
        # A PostgreSQL database for each test would cost more than all that the tests do in it.
        async with opened.writing() as session:
            for table in reversed(Table.metadata.sorted_tables):
                await session.execute(table.delete())
