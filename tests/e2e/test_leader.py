"""Who leads is one of the replicas on a real PostgreSQL, also when that is restarted under them."""

import asyncio

import pytest

from cloud_service.leader import Leader
from cloud_service.storage.database import open_database
from tests.harness import eventually
from tests.harness.postgres import FAST, NO_POSTGRES, Postgres, find_postgres

pytestmark = pytest.mark.e2e


@pytest.fixture
def postgres():
    if find_postgres() is None:
        pytest.skip(NO_POSTGRES)
    with Postgres(settings=FAST) as server:
        yield server


async def test_one_replica_leads_on_postgresql_and_another_one_takes_over(postgres):
    url = postgres.create("lead")
    working: list[str] = []

    async def lead(name: str) -> None:
        async def work() -> None:
            working.append(name)
            try:
                await asyncio.Event().wait()
            finally:
                working.remove(name)

        async def soon(seconds: float) -> None:
            await asyncio.sleep(min(seconds, 0.1))

        async with open_database(url) as database:
            await Leader(database, url, sleep=soon).run({"work": work})

    replicas = {name: asyncio.create_task(lead(name)) for name in ("a", "b")}
    await eventually(lambda: working, timeout=30, what="one leads")
    await asyncio.sleep(0.5)
    assert len(working) == 1
    first = working[0]
    replicas[first].cancel()
    second = "b" if first == "a" else "a"
    await eventually(lambda: working == [second], timeout=20, what="the other one leads")
    await asyncio.to_thread(postgres.restart)
    await eventually(lambda: not working or working == [second], timeout=20, what="nobody else leads")
    await eventually(lambda: working == [second], timeout=20, what="it leads again")
    replicas[second].cancel()
    await asyncio.gather(*replicas.values(), return_exceptions=True)
    assert working == []


async def test_what_a_work_raises_on_postgresql_comes_out_as_it_is(postgres):
    url = postgres.create("fail")

    async def work() -> None:
        raise PermissionError("jobs")

    async with open_database(url) as database:
        with pytest.raises(PermissionError, match="jobs"):
            await asyncio.wait_for(Leader(database, url).run({"work": work}), 20)
