import os
import subprocess

import pytest

from cloud_service.errors import NotFound, StoreError
from cloud_service.storage.blobs import ObjectBlobs, Range
from shared.errors import StorageFull

NAME = "ab" * 32
WHOLE = [Range(0, 0)]


@pytest.fixture(params=["file", "memory"])
def blobs(request, tmp_path):
    return ObjectBlobs(f"file://{tmp_path / 'blobs'}" if request.param == "file" else "memory:///")


async def test_objects_come_back_whole_and_in_parts(blobs):
    await blobs.put(NAME, b"0123456789")
    assert await blobs.get(NAME, WHOLE) == [b"0123456789"]
    assert await blobs.get(NAME, [Range(7, 3), Range(0, 2), Range(0, 2)]) == [b"789", b"01", b"01"]
    assert await blobs.get(NAME, [Range(0, 0), Range(2, 1)]) == [b"0123456789", b"2"]
    assert await blobs.get(NAME, []) == []


async def test_object_in_a_folder_is_one_file_and_found_by_another_process(tmp_path):
    await ObjectBlobs(f"file://{tmp_path}").put(NAME, b"x")
    await ObjectBlobs(f"file://{tmp_path}").put(NAME, b"x")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / NAME[:2] / NAME]
    assert await ObjectBlobs(f"file://{tmp_path}").get(NAME, WHOLE) == [b"x"]


async def test_missing_object_is_not_found_and_may_be_deleted(blobs):
    with pytest.raises(NotFound, match="abab"):
        await blobs.get(NAME, WHOLE)
    with pytest.raises(NotFound, match="abab"):
        await blobs.get(NAME, [Range(0, 3)])
    await blobs.put(NAME, b"x")
    await blobs.delete([NAME, NAME, "cd" * 32])
    with pytest.raises(NotFound):
        await blobs.get(NAME, WHOLE)


async def test_range_beyond_the_end_is_a_store_error(blobs):
    await blobs.put(NAME, b"0123456789")
    with pytest.raises(StoreError, match="abab"):
        await blobs.get(NAME, [Range(20, 5)])


async def test_url_that_nothing_understands_names_the_setting():
    with pytest.raises(StoreError, match=r"\[blobs\] url"):
        ObjectBlobs("gopher://somewhere")


async def test_folder_that_is_a_file_is_a_store_error(tmp_path):
    (tmp_path / NAME[:2]).write_bytes(b"in the way")
    with pytest.raises(StoreError):
        await ObjectBlobs(f"file://{tmp_path}").put(NAME, b"x")


@pytest.fixture
def tiny_disk(tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount a small disk here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk of its own needs root (mount)")
async def test_full_disk_is_told_and_leaves_no_half_object(tiny_disk):
    blobs = ObjectBlobs(f"file://{tiny_disk}")
    await blobs.put(NAME, b"small")
    with pytest.raises(StorageFull, match="no space left"):
        await blobs.put("cd" * 32, bytes(200_000))
    assert await blobs.get(NAME, WHOLE) == [b"small"]
    assert len([path for path in tiny_disk.rglob("*") if path.is_file()]) == 1
