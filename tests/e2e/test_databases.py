"""The store on real databases and a real object store: replicas, kills, restarts, full disks, credentials."""

import asyncio
import os
import re
import subprocess
import sys
from uuid import UUID

import numpy as np
import pytest

from cloud_service.errors import StoreError
from cloud_service.fleet import Fleet
from cloud_service.storage.blobs import ObjectBlobs
from cloud_service.storage.database import open_database
from cloud_service.storage.samples import Purged, SampleFilter, SampleStore
from shared.errors import StorageFull
from shared.messages import DeviceState, LedgerBytes, SpoolState, TaskState, Telemetry
from tests.e2e.cloud_process import Cloud, device
from tests.e2e.store_writer import payload
from tests.harness.object_store import NO_MOTO, S3
from tests.harness.postgres import FAST, NO_POSTGRES, Postgres, find_postgres
from tests.harness.processes import ROOT
from tests.harness.waiting import wait_until
from tests.sim.blobs import MemoryBlobs
from tests.sim.bundles import sample
from tests.sim.stored import new, says

pytestmark = pytest.mark.e2e

EVERYTHING = SampleFilter()


@pytest.fixture(scope="module")
def postgres():
    if find_postgres() is None:
        pytest.skip(NO_POSTGRES)
    with Postgres(settings=FAST) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'edgeloop.db'}"
    name = re.sub(r"\W", "_", request.node.name).lower()[:60]
    return request.getfixturevalue("postgres").create(name)


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    try:
        server = S3(tmp_path_factory.mktemp("s3"))
    except RuntimeError:
        pytest.skip(NO_MOTO)
    with server:
        yield server


def writer(processes, database_url, blobs_url, *mode):
    argv = [sys.executable, str(ROOT / "tests" / "e2e" / "store_writer.py"), database_url, blobs_url, *mode]
    return processes.spawn("writer", argv)


async def test_what_was_stored_when_a_replica_was_killed_is_there_once(database_url, tmp_path, processes):
    """Two replicas write and are killed in the middle, twice."""
    blobs_url = f"file://{tmp_path / 'blobs'}"
    promised: list[UUID] = []
    for _ in range(2):
        pair = [writer(processes, database_url, blobs_url) for _ in range(2)]
        for each in pair:
            each.wait_for_log("stored", timeout=40)
            wait_until(lambda one=each: one.log_text().count("stored") > 3, timeout=20, what="it writes")
        for each in pair:
            each.kill()
            # A killed process may leave half a line.
            lines = [line.split() for line in each.log_text().splitlines(keepends=True) if line.endswith("\n")]
            promised += [UUID(one) for words in lines if words and words[0] == "stored" for one in words[1:]]
    async with open_database(database_url) as database:
        store = SampleStore(database, ObjectBlobs(blobs_url))
        rows = {row.id: row for row in await store.page(EVERYTHING, before=None, limit=100_000)}
        assert len(promised) == len(set(promised)) >= 2 * 2 * 4 * 8
        assert set(promised) <= set(rows)
        for row in list(rows.values())[:: max(1, len(rows) // 200)]:
            assert np.array_equal(await store.tensor(row), payload(row.seq))
        total = sum(group.count for group in await store.groups(EVERYTHING))
        assert total == len(rows)


async def test_restarted_database_is_an_error_and_then_works_again(postgres):
    async with open_database(postgres.create("restarted"), connections=2) as database:
        store = SampleStore(database, MemoryBlobs())
        one = new(1)
        await store.add([one])
        postgres.stop()
        for _ in range(2):
            with pytest.raises(StoreError, match="database failed"):
                await store.add([new(2)])
            with pytest.raises(StoreError, match="database failed"):
                await store.known([one.header.sample_id])
        postgres.start()
        await store.add([new(3)])
        postgres.kill()
        postgres.start()
        await store.add([new(4)])
        assert len(await store.page(EVERYTHING, before=None, limit=10)) == 3


async def test_connection_that_the_server_cut_is_replaced(postgres):
    async with open_database(postgres.create("cut"), connections=2) as database:
        store = SampleStore(database, MemoryBlobs())
        await store.add([new(1)])
        postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'cut'")
        await store.add([new(2)])
        assert len(await store.page(EVERYTHING, before=None, limit=10)) == 2


@pytest.mark.slow
async def test_replica_that_hangs_in_its_turn_holds_the_others_up_for_ten_seconds(postgres, tmp_path, processes):
    url = postgres.create("hangs")
    writer(processes, url, f"file://{tmp_path}", "sleep").wait_for_log("turn", timeout=40)
    async with open_database(url) as database:
        store = SampleStore(database, MemoryBlobs())
        for _ in range(3):
            try:
                await store.add([new(1)])
            except StoreError as err:
                assert "lock timeout" in str(err)  # noqa: PT017  # it may come first, once
            else:
                break
        assert len(await store.page(EVERYTHING, before=None, limit=10)) == 1


async def test_wrong_database_name_or_nobody_there_is_a_store_error(postgres, free_port):
    for url in (postgres.url("nothing"), f"postgresql+asyncpg://edgeloop@127.0.0.1:{free_port()}/x"):
        with pytest.raises(StoreError, match="database failed"):
            async with open_database(url):
                pass


async def test_numbers_grow_in_the_order_of_commits(postgres):
    """A reader that goes on from the last number it saw misses nothing while four replicas write."""
    url = postgres.create("ordered")
    blobs, seen = MemoryBlobs(), []
    async with open_database(url) as one, open_database(url) as two:
        stores = [SampleStore(database, blobs) for database in (one, two, one, two)]
        ids = [[] for _ in stores]
        done = asyncio.Event()

        async def write(store, mine):
            for turn in range(12):
                batch = [new(n, seq=turn) for n in range(1 + turn % 3)]
                await store.add(batch)
                mine += [each.header.sample_id for each in batch]

        async def read():
            after = 0
            while True:
                last = done.is_set()
                rows = await stores[0].scores("digits", after=after, limit=7)
                seen.extend(row.id for row in rows)
                after = rows[-1].number if rows else after
                if last and not rows:
                    return

        reader = asyncio.create_task(read())
        await asyncio.gather(*map(write, stores, ids))
        done.set()
        await reader
    assert sorted(seen) == sorted(one for mine in ids for one in mine)


async def test_fleet_is_read_alike_on_both_databases(database_url):
    telemetry = Telemetry(seq=1, uptime_s=5.0, tasks={}, ledger=LedgerBytes(), spool=SpoolState(items=3))
    async with open_database(database_url) as database:
        fleet = Fleet(database)
        for name, tasks in {"cam-1": ("digits",), "cam-2": ("a.b-c", "digits"), "cam-3": ()}.items():
            states = {task: TaskState(bundle_version="v1", bundle_sha256=f"{task} {name}") for task in tasks}
            fleet.saw(name, DeviceState(online=True, tasks=states))
        fleet.saw("cam-2", telemetry)
        await fleet.flush()
        assert await fleet.running("digits") == {"cam-1": "digits cam-1", "cam-2": "digits cam-2"}
        assert await fleet.running("a.b-c") == {"cam-2": "a.b-c cam-2"}
        assert await fleet.running("a") == {}
        reported = [(one.name, one.telemetry()) for one in await fleet.reporters()]
        assert reported == [("cam-1", {}), ("cam-2", telemetry.model_dump(mode="json")), ("cam-3", {})]
        pages = [await fleet.page(limit=2), await fleet.page(after="cam-2", limit=2)]
        assert [[device.name for device in page] for page in pages] == [["cam-1", "cam-2"], ["cam-3"]]
        assert pages[0][1] == await fleet.device("cam-2")


async def test_payloads_live_in_s3_as_a_user_sets_it_up(s3, monkeypatch, database_url):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    bucket = "samples-" + database_url.partition("+")[0]
    url = s3.create(bucket) + "/site-a"
    async with open_database(database_url) as database:
        store = SampleStore(database, ObjectBlobs(url))
        batch = [new(n, device=f"cam-{n % 2}") for n in range(6)]
        await store.add(batch)
        await store.answer([(each.header.sample_id, says(n)) for n, each in enumerate(batch)])
        assert np.array_equal((await store.training_set("digits", limit=10)).x, [sample(n) for n in range(6)])
        assert await store.purge_device("cam-1") == Purged(3, 3)
        assert np.array_equal((await store.training_set("digits", limit=10)).x, [sample(n) for n in (0, 2, 4)])
        assert await store.purge_device("cam-0") == Purged(3, 3)


async def test_s3_without_the_bucket_is_a_store_error(s3, monkeypatch):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    blobs = ObjectBlobs("s3://nowhere")
    with pytest.raises(StoreError, match="failed to write"):
        await blobs.put("ab" * 32, b"x")


async def test_service_runs_on_postgresql_and_s3(postgres, s3, tmp_path, mosquitto, processes, free_port, monkeypatch):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    cloud = Cloud(tmp_path / "cloud", mosquitto, free_port(), processes)
    database, blobs = postgres.create("service"), s3.create("service")
    cloud.start("--set", f"database.url={database}", "--set", f"blobs.url={blobs}")
    async with device(mosquitto) as cam:
        await cam.state()
        sent = await cam.send(sample(3))
        assert (await cam.verdict(sent.sample_id)).prediction == 3
    assert [each["id"] for each in cloud.samples()] == [str(sent.sample_id)]
    monkeypatch.undo()
    assert postgres.sql("SELECT count(*) FROM samples WHERE label = 3", database="service") == "1"
    assert not (cloud.folder / "data" / "blobs").exists()


@pytest.fixture
def tiny_disk(tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount a small disk here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk of its own needs root (mount)")
async def test_full_disk_stores_nothing_of_a_batch_and_says_so(tiny_disk):
    async with open_database(f"sqlite+aiosqlite:///{tiny_disk / 'edgeloop.db'}") as database:
        store = SampleStore(database, MemoryBlobs())
        stored = 0
        with pytest.raises(StorageFull, match="no space left for the database"):
            for start in range(0, 100_000, 100):
                await store.add([new(1, seq=start + n) for n in range(100)])
                stored += 100
        assert stored > 0
        assert sum(group.count for group in await store.groups(EVERYTHING)) == stored
