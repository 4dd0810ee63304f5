import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shared import atomic
from shared.errors import StorageFull

# Writes half of a file, tells where it is, and waits to be killed at the point that its argument names.
KILLED = """
import os, sys, time
from pathlib import Path
from shared import atomic
path, point = Path(sys.argv[1]), sys.argv[2]

def stop(word):
    print(word, flush=True)
    time.sleep(60)

with atomic.replacing(path) as file:
    file.write(b"new" * 100_000)
    file.flush()
    if point == "written":
        stop("written")
    os.fsync(file.fileno())
    if point == "synced":
        stop("synced")
stop("replaced")
"""


def leftovers(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir() if each.name.startswith(".")]


def test_write_makes_and_replaces_a_file(tmp_path):
    path = tmp_path / "a"
    for data in (b"first", b"", b"third" * 1_000):
        atomic.write_bytes(path, data)
        assert path.read_bytes() == data
    assert leftovers(tmp_path) == []


def test_json_is_readable_and_always_the_same(tmp_path):
    path = tmp_path / "a.json"
    atomic.write_json(path, {"b": 1, "a": "é"})
    assert path.read_text(encoding="utf-8") == '{\n  "a": "é",\n  "b": 1\n}\n'
    assert json.loads(path.read_text()) == {"a": "é", "b": 1}


def test_value_without_json_leaves_the_old_file(tmp_path):
    atomic.write_bytes(tmp_path / "a", b"old")
    with pytest.raises(TypeError):
        atomic.write_json(tmp_path / "a", object())
    assert (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt(), OSError(5, "broken disk")])
def test_error_in_the_block_comes_out_as_it_is_and_leaves_the_old_file(tmp_path, error):
    atomic.write_bytes(tmp_path / "a", b"old")
    with pytest.raises(type(error)) as caught, atomic.replacing(tmp_path / "a") as file:
        file.write(b"half")
        raise error
    assert caught.value is error
    assert error.__cause__ is None
    assert (tmp_path / "a").read_bytes() == b"old"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("point", "expected"), [("written", b"old"), ("synced", b"old"), ("replaced", b"new" * 100_000)]
)
def test_killed_process_leaves_the_old_file_or_the_new_one(tmp_path, point, expected):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    root = Path(__file__).resolve().parents[3]
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path), point], stdout=subprocess.PIPE, text=True, cwd=root
    )
    with child:
        assert child.stdout.readline().strip() == point
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert path.read_bytes() == expected
    atomic.write_bytes(path, b"after the restart")
    assert path.read_bytes() == b"after the restart"


def test_full_disk_is_said_with_a_remedy_and_leaves_the_old_file(tmp_path, file_size_limit):
    path = tmp_path / "a"
    atomic.write_bytes(path, b"old")
    with file_size_limit(4_096), pytest.raises(StorageFull, match=r"no space left for .*/a: free some space") as caught:
        atomic.write_bytes(path, bytes(10_000))
    assert isinstance(caught.value.__cause__, OSError)
    assert path.read_bytes() == b"old"
    assert leftovers(tmp_path) == []


def test_really_full_disk_is_the_same(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("mounting a tiny file system needs root; the test before this one has the kernel refuse instead")
    try:
        atomic.write_bytes(disk / "a", b"old")
        with pytest.raises(StorageFull, match="no space left"):
            atomic.write_bytes(disk / "a", bytes(1_000_000))
        assert (disk / "a").read_bytes() == b"old"
        assert leftovers(disk) == []
        atomic.write_bytes(disk / "a", bytes(10_000))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_missing_folder_is_an_ordinary_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        atomic.write_bytes(tmp_path / "none" / "a", b"x")


def test_remove_accepts_a_file_that_is_gone(tmp_path):
    (tmp_path / "a").touch()
    atomic.remove(tmp_path / "a")
    atomic.remove(tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("code", [28, 122, 27])
def test_errors_of_a_full_disk_are_told_from_others(code):
    full = OSError(code, os.strerror(code))
    assert isinstance(atomic.full_or_same(full, Path("x")), StorageFull)
    other = PermissionError(13, "no")
    assert atomic.full_or_same(other, Path("x")) is other
