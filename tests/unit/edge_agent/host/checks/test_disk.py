"""The state folder's disk: real ones, the full and the read-only one are a tiny tmpfs."""

import os

import pytest

from edge_agent.host.checks.disk import check_disk
from tests.sim.disk import fill, read_only, small_disk

MOUNTS = "/dev/mmcblk0p2 / ext4 rw 0 0\n"


@pytest.fixture
def look(tmp_path):
    """Check a folder; `life`: what its flash says of itself; `mounts`: as /proc/self/mounts."""

    def check(folder, *, spool_bytes=1000, life=None, mounts=MOUNTS):
        (tmp_path / "mounts").write_text(mounts)
        device = next(path for path in (folder, *folder.parents) if path.is_dir()).stat().st_dev
        block = tmp_path / "sys/dev/block" / f"{os.major(device)}:{os.minor(device)}"
        if life is not None:
            (block / "device").mkdir(parents=True, exist_ok=True)
            (block / "device/life_time").write_text(life)
        found = check_disk(folder, spool_bytes=spool_bytes, sysfs=tmp_path / "sys", mounts=tmp_path / "mounts")
        return [(finding.level.value, finding.says) for finding in found]

    return check


def test_disk_that_takes_writes_is_ok_and_nothing_stays_on_it(look, tmp_path):
    (tmp_path / "state").mkdir()
    found = look(tmp_path / "state")
    assert [level for level, _ in found] == ["ok", "ok"]
    assert "a flush takes" in found[-1][1]
    assert list((tmp_path / "state").iterdir()) == []


def test_disk_of_a_folder_that_is_not_there_yet_is_its_parents(look, tmp_path):
    found = look(tmp_path / "state" / "deep")
    assert [level for level, _ in found] == ["ok", "ok"]
    assert "not there yet" in found[0][1]
    assert not (tmp_path / "state").exists()


def test_disk_smaller_than_the_spool_may_grow_is_told(look, tmp_path):
    assert look(tmp_path, spool_bytes=10**15)[0][0] == "warn"


def test_disk_that_is_full_or_read_only_fails(look, tmp_path):
    with small_disk(tmp_path / "disk", kilobytes=1024) as disk:
        fill(disk)
        found = dict(reversed(each) for each in look(disk))
        assert set(found.values()) == {"fail"}
        assert any("cannot be written" in says for says in found)
        with read_only(disk):
            ((level, says),) = look(disk)
        assert (level, "read-only" in says) == ("fail", True)


def test_disk_in_memory_is_told_by_the_nearest_mount(look, tmp_path):
    inner = f"tmpfs {tmp_path} tmpfs 0\n"
    outer = f"/dev/sda1 {tmp_path.parent} ext4 0\n"
    for mounts in (MOUNTS + inner + outer, MOUNTS + outer + inner):
        assert any("is in memory (tmpfs)" in says for _, says in look(tmp_path, mounts=mounts))
    other = f"tmpfs {tmp_path.parent} tmpfs 0\n/dev/sda1 {tmp_path} ext4 0\n"
    assert not any("is in memory" in says for _, says in look(tmp_path, mounts=other))


@pytest.mark.parametrize(("life", "level"), [("0x01 0x02\n", "ok"), ("0x01 0x09\n", "warn"), ("0x0b 0x01\n", "warn")])
def test_flash_that_is_worn_is_told(look, tmp_path, life, level):
    assert [found for found, says in look(tmp_path, life=life) if "of its life" in says] == [level]


def test_flash_that_says_nothing_of_itself_is_normal(look, tmp_path):
    assert not any("of its life" in says for _, says in look(tmp_path, life="nonsense"))
