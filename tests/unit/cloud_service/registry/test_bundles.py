import asyncio

import pytest

from cloud_service.errors import Conflict, NotFound
from cloud_service.registry.bundles import Registry
from shared.bundle import sha256_file
from shared.errors import BundleError
from tests.sim.bundles import make


async def test_imported_bundle_is_kept_under_its_hash_with_its_lineage(registry, tmp_path):
    info = make(tmp_path / "b", version="v2")
    row = await registry.add(tmp_path / "b", origin="upload")
    assert (row.task, row.version, row.sha256, row.size_bytes) == ("digits", "v2", info.sha256, info.size_bytes)
    assert sha256_file(registry.file(row.sha256)) == info.sha256
    assert row.manifest["labels"] == list("0123456789")
    assert (await registry.get("digits", "v2")).number == row.number


async def test_same_file_again_is_the_same_entry(registry, tmp_path):
    make(tmp_path / "b")
    first = await registry.add(tmp_path / "b", origin="upload")
    again = await registry.add(tmp_path / "b", origin="upload")
    assert first.number == again.number
    assert len(await registry.all()) == 1


async def test_another_file_under_the_same_version_is_a_conflict(registry, tmp_path):
    make(tmp_path / "a", version="v2")
    make(tmp_path / "b", version="v2", shift=1)
    await registry.add(tmp_path / "a", origin="upload")
    with pytest.raises(Conflict, match="version of its own"):
        await registry.add(tmp_path / "b", origin="upload")


async def test_versions_belong_to_their_task_and_are_listed_newest_first(registry, tmp_path):
    for task, version in (("digits", "v1"), ("sounds", "v1"), ("digits", "v2")):
        make(tmp_path / "b", task=task, version=version)
        await registry.add(tmp_path / "b", origin="upload")
    assert [row.version for row in await registry.all("digits")] == ["v2", "v1"]
    assert len(await registry.all()) == 3


@pytest.mark.parametrize("damage", ["cut", "flip", "text"])
async def test_damaged_bundle_is_refused_and_leaves_nothing(registry, tmp_path, damage):
    make(tmp_path / "b")
    data = bytearray((tmp_path / "b").read_bytes())
    match damage:
        case "cut":
            del data[len(data) // 2 :]
        case "flip":
            data[3_000] ^= 1
        case "text":
            data[:] = b"hello"
    (tmp_path / "b").write_bytes(data)
    with pytest.raises(BundleError):
        await registry.add(tmp_path / "b", origin="upload")
    assert await registry.all() == []
    assert list((tmp_path / "bundles").iterdir()) == []


async def test_bundle_that_does_not_fit_the_served_task_is_refused(registry, tmp_path):
    make(tmp_path / "b", labels=("yes", "no"))
    with pytest.raises(BundleError, match="does not fit task 'digits'"):
        await registry.add(tmp_path / "b", origin="upload")


async def test_unknown_version_is_not_found(registry):
    with pytest.raises(NotFound, match="v9"):
        await registry.get("digits", "v9")


async def test_scratch_folders_end_with_their_block_and_leftovers_at_the_start(
    registry, database, tmp_path, digits_task
):
    with registry.scratch() as folder:
        assert folder.is_dir()
    assert not folder.exists()
    leftover = tmp_path / "bundles" / ".upload-killed"
    leftover.mkdir()
    (leftover / "bundle").write_bytes(b"half")
    Registry(database, tmp_path / "bundles", tasks={"digits": digits_task})
    assert not leftover.exists()


async def test_one_file_imported_twice_at_once_is_one_entry(registry, tmp_path):
    make(tmp_path / "b", version="v1")
    rows = await asyncio.gather(*(registry.add(tmp_path / "b", origin="upload") for _ in range(8)))
    assert {row.number for row in rows} == {rows[0].number}
    assert registry.file(rows[0].sha256).read_bytes() == (tmp_path / "b").read_bytes()
