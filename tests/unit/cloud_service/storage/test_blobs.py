import os
import subprocess

import pytest

from cloud_service.errors import NotFound, StoreError
from cloud_service.storage.blobs import ObjectBlobs
from shared.bundle import sha256
from shared.errors import StorageFull


async def test_blobs_come_back_under_the_hash_of_their_bytes(tmp_path):
    blobs = ObjectBlobs(f"file://{tmp_path / 'blobs'}")
    contents = [b"one", b"two", b"one", bytes(300_000)]
    names = await blobs.put(contents)
    assert names == [sha256(content) for content in contents]
    assert [await ObjectBlobs(f"file://{tmp_path / 'blobs'}").get(name) for name in names] == contents
    files = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
    assert len(files) == 3
    assert await blobs.put([b"one"]) == names[:1]


async def test_blobs_work_on_an_object_store_by_url():
    blobs = ObjectBlobs("memory:///")
    [name] = await blobs.put([b"payload"])
    assert await blobs.get(name) == b"payload"


async def test_missing_blob_is_not_found(tmp_path):
    with pytest.raises(NotFound, match="0000"):
        await ObjectBlobs(f"file://{tmp_path}").get("0" * 64)


async def test_url_that_nothing_understands_names_the_setting():
    with pytest.raises(StoreError, match=r"\[blobs\] url"):
        ObjectBlobs("gopher://somewhere")


async def test_folder_that_is_a_file_is_a_store_error(tmp_path):
    blobs = ObjectBlobs(f"file://{tmp_path}")
    name = sha256(b"x")
    (tmp_path / name[:2]).write_bytes(b"in the way")
    with pytest.raises(StoreError):
        await blobs.put([b"x"])


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
async def test_full_disk_is_told_and_leaves_no_half_blob(tiny_disk):
    blobs = ObjectBlobs(f"file://{tiny_disk}")
    [small] = await blobs.put([b"small"])
    with pytest.raises(StorageFull, match="no space left"):
        await blobs.put([bytes(200_000)])
    assert await blobs.get(small) == b"small"
    assert len([path for path in tiny_disk.rglob("*") if path.is_file()]) == 1
