"""What is deleted is gone: rows, bytes, and for good; nothing else goes with it."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import select, update

from cloud_service.errors import NotFound, StoreError
from cloud_service.storage.models import Incident, Sample, WornPack
from cloud_service.storage.samples import Purged, RetentionRules, SampleFilter, SampleStore
from shared import codec
from shared.bundle import sha256
from tests.sim.bundles import sample
from tests.sim.stored import new, says

EVERYTHING = SampleFilter()


async def rows(store, which=EVERYTHING):
    return (await store.page(which, before=None, limit=2000))[::-1]


async def marks(database):
    async with database.reading() as session:
        return list(await session.scalars(select(WornPack)))


def bytes_of(label: int) -> bytes:
    return sample(label).tobytes()


async def test_purge_deletes_what_matches_and_nothing_else(samples, blobs):
    gone, kept = new(1, device="cam-1"), new(2, device="cam-2")
    await samples.add([gone, kept])
    assert await samples.purge(SampleFilter(device="cam-1")) == Purged(samples=1, blobs=1)
    [row] = await rows(samples)
    assert row.id == kept.header.sample_id
    assert np.array_equal(await samples.tensor(row), sample(2))


async def test_deleted_payload_is_in_no_object_any_more(samples, blobs):
    await samples.add([new(n, device=f"cam-{n}") for n in range(4)])
    await samples.purge_device("cam-2")
    stored = b"".join(blobs.blobs.values())
    assert bytes_of(2) not in stored
    assert all(bytes_of(n) in stored for n in (0, 1, 3))
    assert [int((await samples.tensor(row)).argmax()) for row in await rows(samples)] == [0, 1, 3]
    assert len(blobs.blobs) == 1


async def test_payload_that_another_row_needs_stays(samples, blobs):
    await samples.add([new(1, device="cam-1")])
    await samples.add([new(1, device="cam-2"), new(2, device="cam-2")])
    assert await samples.purge_device("cam-1") == Purged(samples=1, blobs=0)
    assert [int((await samples.tensor(row)).argmax()) for row in await rows(samples)] == [1, 2]
    assert await samples.purge_device("cam-2") == Purged(samples=2, blobs=2)
    assert blobs.blobs == {}


async def test_purge_of_nothing_is_nothing(samples):
    assert await samples.purge_device("cam-9") == Purged()
    with pytest.raises(ValueError, match="condition"):
        await samples.purge(EVERYTHING)


async def test_purge_goes_on_over_many_transactions(samples, blobs):
    from cloud_service.storage import deletion

    assert deletion._ROWS == 500
    batch = [new(n % 10, seq=n) for n in range(1_100)]
    await samples.add(batch)
    assert await samples.purge(SampleFilter(task="digits")) == Purged(samples=1_100, blobs=10)
    assert await rows(samples) == []
    assert blobs.blobs == {}


async def test_duplicate_takes_the_place_of_its_first(database, blobs):
    store = SampleStore(database, blobs, near_duplicates={"digits": 0.0})
    first, second, third = new(1, seq=1), new(1, seq=2), new(1, seq=3)
    await store.add([first, second, third])
    await store.label([(first.header.sample_id, 9)], by="ann")
    assert await store.purge(SampleFilter(human_label=9)) == Purged(samples=1, blobs=0)
    heir, other = await rows(store)
    assert (heir.duplicate_of, heir.duplicates) == (None, 1)
    assert other.duplicate_of == heir.id == second.header.sample_id
    assert np.array_equal(await store.tensor(other), sample(1))


async def test_same_payloads_added_again_after_their_deletion_are_there(samples, blobs, database):
    await samples.add([new(1), new(2)])
    await samples.purge(SampleFilter(task="digits"))
    assert blobs.blobs == {}
    assert await marks(database) == []
    await samples.add([new(1), new(2)])
    assert [int((await samples.tensor(row)).argmax()) for row in await rows(samples)] == [1, 2]
    assert await samples.sweep() == 0


class Forgetful:
    """Deletes, and says that it failed."""

    def __init__(self, blobs):
        self.put, self.get, self._blobs = blobs.put, blobs.get, blobs

    async def delete(self, names):
        await self._blobs.delete(names)
        raise StoreError("the reply was lost: simulated")


class Killed(BaseException):
    """The process ends here."""


class Dying:
    """A blob store at one of whose steps the sweep ends: the process is killed, or the reply never comes."""

    def __init__(self, inner, step, end) -> None:
        self.inner, self.step, self.end = inner, step, end

    async def put(self, name, data):
        await self._do("put", lambda: self.inner.put(name, data))

    async def get(self, name, ranges):
        return await self.inner.get(name, ranges)

    async def delete(self, names):
        await self._do("delete", lambda: self.inner.delete(names))

    async def _do(self, step, do):
        if self.step == f"before {step}":
            raise self.end
        await do()
        if self.step == f"after {step}":
            raise self.end


@pytest.mark.parametrize("step", ["before put", "after put", "before delete", "after delete"])
@pytest.mark.parametrize("end", [Killed(), asyncio.CancelledError(), StoreError("the blob store failed: no reply")])
async def test_sweep_that_ends_in_the_middle_of_a_removal_loses_nothing_that_is_needed(database, blobs, step, end):
    at = [datetime(2026, 1, 1, tzinfo=UTC)]
    store = SampleStore(database, blobs, now=lambda: at[0])
    await store.add([new(n, device=f"cam-{n}") for n in range(4)])
    dying = SampleStore(database, Dying(blobs, step, end), now=lambda: at[0])
    with pytest.raises(type(end)):
        await dying.purge_device("cam-2")

    async def there():
        return [int((await store.tensor(row)).argmax()) for row in await rows(store)]

    assert await there() == [0, 1, 3]
    await store.add([new(2, device="cam-5")])
    await store.sweep()
    assert await there() == [0, 1, 3, 2]
    # A pack that was being filled is taken for a crashed sweep's after a day.
    at[0] += timedelta(hours=25)
    await store.sweep()
    assert await there() == [0, 1, 3, 2]
    assert sum(map(len, blobs.blobs.values())) == 4 * (await rows(store))[0].payload_bytes
    assert await marks(database) == []


async def test_commit_of_a_removal_that_fails_loses_nothing_that_is_needed(database, blobs):
    """Each turn's commit in its order: rolled back after everything of it was done."""
    at = [datetime(2026, 1, 1, tzinfo=UTC)]

    class Fails:
        def __init__(self, turn) -> None:
            self.left = turn

        def __getattr__(self, name):
            return getattr(database, name)

        @asynccontextmanager
        async def in_turn(self):
            async with database.in_turn() as connection:
                yield connection
                self.left -= 1
                if self.left == 0:
                    raise StoreError("the database failed: simulated")

    store = SampleStore(database, blobs, now=lambda: at[0])
    for turn in range(1, 20):
        await store.add([new(n, device=f"cam-{n}") for n in range(4)])
        try:
            await SampleStore(Fails(turn), blobs, now=lambda: at[0]).purge_device("cam-2")
        except StoreError:
            done = False
        else:
            done = True
        left = {int((await store.tensor(row)).argmax()) for row in await rows(store)}
        assert left in ({0, 1, 3}, {0, 1, 2, 3})
        await store.purge_device("cam-2")
        assert {int((await store.tensor(row)).argmax()) for row in await rows(store)} == {0, 1, 3}
        await store.purge(SampleFilter(task="digits"))
        at[0] += timedelta(days=9)
        await store.sweep()
        assert blobs.blobs == {}
        if done:
            break
    assert done
    assert turn > 6


async def test_payload_purged_while_it_is_put_into_a_new_pack_is_in_no_object(database, blobs):
    other = SampleStore(database, blobs)
    await other.add([new(n, device=f"cam-{n}") for n in range(4)])
    slow = Interrupted(blobs)
    slow.after_get = lambda: other.purge_device("cam-2")
    store = SampleStore(database, slow)
    await store.purge_device("cam-1")
    stored = b"".join(blobs.blobs.values())
    assert bytes_of(1) not in stored
    assert bytes_of(2) not in stored
    assert [int((await store.tensor(row)).argmax()) for row in await rows(store)] == [0, 3]


async def test_incidents_go_with_their_device_and_no_others(database, blobs):
    async with database.writing() as session:
        for device in ("cam-1", "cam-1", "cam-2"):
            row = {"task": "digits", "device": device, "sentence": "it drifts", "evidence": {}}
            session.add(Incident(**row, opened_at=datetime(2026, 1, 1, tzinfo=UTC)))
    store = SampleStore(database, blobs)
    await store.add([new(1)])
    await store.purge_device("cam-1")
    async with database.reading() as session:
        assert list(await session.scalars(select(Incident.device))) == ["cam-2"]


async def test_duplicates_own_payloads_go_with_their_device(database, blobs):
    store = SampleStore(database, blobs, near_duplicates={"digits": 0.01})
    first, near, same = new(1), new(2), new(1)
    await store.add([first])
    await store.add([near, *(new(n, device="cam-2") for n in (5, 6, 7))])
    await store.answer([(one.header.sample_id, says(4, embedding=(1.0, 0.0))) for one in (first, near)])
    await store.add([same, *(new(n, device="cam-2") for n in (3, 8, 9))])
    for one in (near, same):
        assert (await store.one(one.header.sample_id)).duplicate_of == first.header.sample_id
    await store.purge_device("cam-1")
    stored = b"".join(blobs.blobs.values())
    assert bytes_of(1) not in stored
    assert bytes_of(2) not in stored
    assert [int((await store.tensor(row)).argmax()) for row in await rows(store)] == [5, 6, 7, 3, 8, 9]


async def test_rows_of_a_replica_of_the_first_release_are_found_and_deleted(database, blobs):
    """Such a replica names no pack: the payload is an object of its own, by its hash."""
    store = SampleStore(database, blobs)
    payloads = [codec.encode(sample(n)) for n in (1, 2)]
    for payload in payloads:
        await blobs.put(sha256(payload), payload)
    batch = [new(1, device="cam-1"), new(2, device="cam-2")]
    await store.add(batch)

    async def as_it_did():
        async with database.writing() as session:
            for one, payload in zip(batch, payloads, strict=True):
                old = {"pack": "", "pack_start": 0, "payload_bytes": 0, "blob": sha256(payload)}
                await session.execute(update(Sample).where(Sample.id == one.header.sample_id).values(**old))

    await as_it_did()
    assert [int((await store.tensor(row)).argmax()) for row in await rows(store)] == [1, 2]
    await store.purge_device("cam-1")
    assert sha256(payloads[0]) not in blobs.blobs
    [row] = await rows(store)
    assert row.pack == sha256(payloads[1])
    assert int((await store.tensor(row)).argmax()) == 2


class Interrupted:
    """A blob store in the middle of whose work somebody else comes: after a `put` and its rows, or after a `get`."""

    def __init__(self, inner) -> None:
        self.inner = inner
        self.after_put = self.after_get = None

    async def put(self, name, data):
        await self.inner.put(name, data)
        if self.after_put:
            todo, self.after_put = self.after_put, None
            await todo()

    async def get(self, name, ranges):
        found = await self.inner.get(name, ranges)
        if self.after_get:
            todo, self.after_get = self.after_get, None
            await todo()
        return found

    async def delete(self, names):
        await self.inner.delete(names)


async def test_payload_purged_elsewhere_between_its_put_and_its_row_is_there(database, blobs):
    other = SampleStore(database, blobs)
    await other.add([new(1)])
    slow = Interrupted(blobs)
    slow.after_put = lambda: other.purge(SampleFilter(task="digits"))
    store = SampleStore(database, slow)
    await store.add([new(1)])
    [row] = await rows(store)
    assert np.array_equal(await store.tensor(row), sample(1))


async def test_pack_that_somebody_adds_to_while_it_is_emptied_stays(database, blobs):
    other = SampleStore(database, blobs)
    await other.add([new(1, device="cam-1"), new(2, device="cam-2")])
    slow = Interrupted(blobs)
    slow.after_get = lambda: other.add([new(1, device="cam-3"), new(2, device="cam-2")])
    assert await SampleStore(database, slow).purge_device("cam-1") == Purged(1, 1)
    assert [int((await other.tensor(row)).argmax()) for row in await rows(other)] == [2, 1, 2]
    await other.purge(SampleFilter(task="digits"))
    assert blobs.blobs == {}


async def test_deletion_whose_answer_is_lost_loses_no_payload(database, blobs):
    """The old pack is gone, and the turn in which that should be noted fails."""
    other = SampleStore(database, blobs)
    await other.add([new(1, device="cam-1"), new(2, device="cam-2")])
    with pytest.raises(StoreError):
        await SampleStore(database, Forgetful(blobs)).purge_device("cam-1")
    [row] = await rows(other)
    assert np.array_equal(await other.tensor(row), sample(2))
    await other.sweep()
    await other.add([new(1, device="cam-1"), new(2, device="cam-2")])  # the same pack once more
    assert [int((await other.tensor(row)).argmax()) for row in await rows(other)] == [2, 1, 2]


async def test_what_is_purged_while_its_pack_is_moved_leaves_the_new_pack_too(database, blobs):
    other = SampleStore(database, blobs)
    await other.add([new(n, device=f"cam-{n}") for n in (1, 2, 3)])
    slow = Interrupted(blobs)
    slow.after_get = lambda: other.purge_device("cam-2")
    await SampleStore(database, slow).purge_device("cam-1")
    await other.sweep()
    [row] = await rows(other)
    assert np.array_equal(await other.tensor(row), sample(3))
    assert sum(map(len, blobs.blobs.values())) == row.payload_bytes


async def test_failing_blob_store_delays_a_deletion_and_loses_none(samples, blobs, database):
    await samples.add([new(1)])
    blobs.broken = True
    with pytest.raises(StoreError):
        await samples.purge(SampleFilter(task="digits"))
    assert await rows(samples) == []
    assert len(blobs.blobs) == 1
    blobs.broken = False
    assert await samples.sweep() == 1
    assert blobs.blobs == {}


async def test_reader_finds_a_payload_that_was_moved_meanwhile(samples):
    await samples.add([new(1, device="cam-1"), new(2, device="cam-2")])
    [row] = await rows(samples, SampleFilter(device="cam-2"))
    await samples.purge_device("cam-1")
    assert np.array_equal(await samples.tensor(row), sample(2))
    [gone] = await rows(samples)
    await samples.purge_device("cam-2")
    with pytest.raises(NotFound):
        await samples.tensor(gone)


async def test_adding_and_deleting_at_once_loses_no_payload(database_url, database, blobs):
    """Two replicas add the same payloads again and again while two delete them."""
    from cloud_service.storage.database import open_database

    async with open_database(database_url) as another:
        stores = [SampleStore(one, blobs, near_duplicates={"digits": 0.0}) for one in (database, another)]

        async def add(store):
            for turn in range(8):
                await store.add([new(n, seq=turn, reason="audit" if turn % 2 else "hard") for n in (1, 2, 3)])

        async def delete(store):
            for turn in range(8):
                await store.purge(SampleFilter(reason="audit" if turn % 2 else "hard"))

        await asyncio.gather(add(stores[0]), add(stores[1]), delete(stores[0]), delete(stores[1]))
        left = await rows(stores[0])
        assert {int((await stores[0].tensor(row)).argmax()) for row in left} <= {1, 2, 3}
        by_id = {row.id: row for row in left}
        for row in left:
            if row.duplicate_of is not None:
                assert by_id[row.duplicate_of].blob == row.blob
        for store in stores:
            await store.purge(SampleFilter(task="digits"))
            await store.sweep()
    assert blobs.blobs == {}


async def test_answer_for_a_deleted_sample_is_dropped(samples):
    one = new(1)
    await samples.add([one])
    await samples.purge(SampleFilter(task="digits"))
    await samples.answer([(one.header.sample_id, says(1))])
    assert await rows(samples) == []


async def test_pack_of_which_everything_is_needed_still_is_left_alone(samples, blobs, database):
    await samples.add([new(1, device="cam-1"), new(1, device="cam-2")])
    before = dict(blobs.blobs)
    assert await samples.purge_device("cam-1") == Purged(samples=1, blobs=0)
    assert blobs.blobs == before
    assert await marks(database) == []


async def test_pack_that_lost_less_than_half_to_retention_waits(samples, blobs, database):
    await samples.add([new(n) for n in range(5)])
    [first] = (await rows(samples))[:1]
    await samples.retain("digits", RetentionRules(max_samples=4))
    [mark] = await marks(database)
    assert (mark.due, mark.dead_bytes) == (False, first.payload_bytes)
    assert sum(map(len, blobs.blobs.values())) == 5 * first.payload_bytes
    await samples.retain("digits", RetentionRules(max_samples=2))
    assert sum(map(len, blobs.blobs.values())) == 2 * first.payload_bytes
