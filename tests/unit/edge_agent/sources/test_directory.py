import os
from threading import Event

import numpy as np
import pytest

from edge_agent.sources.opening import open_source
from edge_agent.sources.settings import DirectorySettings
from shared.errors import SettingsError


def put(folder, name, value, *, age):
    np.save(folder / name, np.full((2, 2), value, np.uint8))
    os.utime(folder / name, (1e9 - age, 1e9 - age))


def take(folder, count, **options):
    """The next requests; the source is asked once more, so that the last file has moved."""
    stop = Event()
    source = open_source(DirectorySettings(kind="directory", path=folder, poll_s=0.01, **options), stop)
    got = [next(source) for _ in range(count)]
    stop.set()
    assert list(source) == []
    return got


def names(folder):
    return sorted(entry.name for entry in folder.iterdir() if entry.is_file())


def test_directory_gives_files_oldest_first_and_moves_them(tmp_path):
    put(tmp_path, "b.npy", 1, age=30)
    put(tmp_path, "a.npy", 2, age=20)
    put(tmp_path, "c.npy", 3, age=10)
    (tmp_path / "notes.txt").write_text("left alone")
    got = take(tmp_path, 3, training_use=False, audit_fraction=0.25)
    assert [(each.reference, int(each.tensor[0, 0])) for each in got] == [("b.npy", 1), ("a.npy", 2), ("c.npy", 3)]
    assert {(each.training_use, each.audit_fraction) for each in got} == {(False, 0.25)}
    assert names(tmp_path) == ["notes.txt"]
    assert names(tmp_path / "done") == ["a.npy", "b.npy", "c.npy"]


def test_directory_leaves_a_file_that_was_not_answered(tmp_path):
    put(tmp_path, "a.npy", 1, age=1)
    source = open_source(DirectorySettings(kind="directory", path=tmp_path), Event())
    next(source)
    source.close()
    assert names(tmp_path) == ["a.npy"]


def write_text(path):
    path.write_text("no array")


def write_archive(path):
    with path.open("wb") as file:
        np.savez(file, x=np.zeros(3))


def write_half_an_archive(path):
    with path.open("wb") as file:
        np.savez(file, x=np.zeros((50, 50)))
    path.write_bytes(path.read_bytes()[:900])


def write_half(path):
    np.save(path, np.zeros((50, 50)))
    path.write_bytes(path.read_bytes()[:900])


def write_objects(path):
    np.save(path, np.array([{}], dtype=object))


def write_giant_claim(path):
    np.save(path, np.zeros(4, np.uint8))
    path.write_bytes(path.read_bytes().replace(b"(4,)", b"(99999999999999,)").replace(b" " * 13, b"", 1))


@pytest.mark.parametrize(
    "write",
    [
        write_text,
        write_archive,
        write_half_an_archive,
        write_half,
        write_objects,
        write_giant_claim,
        lambda path: path.write_bytes(b""),
    ],
)
def test_directory_moves_what_is_no_array_to_failed_and_goes_on(tmp_path, caplog, write):
    write(tmp_path / "a.npy")
    os.utime(tmp_path / "a.npy", (1, 1))
    put(tmp_path, "b.npy", 7, age=1)
    (request,) = take(tmp_path, 1)
    assert request.reference == "b.npy"
    assert names(tmp_path / "failed") == ["a.npy"]
    assert "moved to failed/" in caplog.text


def test_directory_keeps_only_so_many(tmp_path):
    for age in range(6):
        put(tmp_path, f"{age}.npy", age, age=age)
    take(tmp_path, 6, keep=2)
    assert names(tmp_path / "done") == ["0.npy", "1.npy"]


def test_directory_sees_files_that_come_later(tmp_path):
    stop = Event()
    source = open_source(DirectorySettings(kind="directory", path=tmp_path, poll_s=0.01), stop)
    put(tmp_path, "a.npy", 1, age=1)
    next(source)
    put(tmp_path, "b.npy", 2, age=1)
    assert next(source).reference == "b.npy"


def test_directory_survives_a_file_that_somebody_takes_away(tmp_path):
    source = open_source(DirectorySettings(kind="directory", path=tmp_path, poll_s=0.01), Event())
    put(tmp_path, "a.npy", 1, age=3)
    put(tmp_path, "b.npy", 2, age=2)
    put(tmp_path, "c.npy", 3, age=1)
    assert next(source).reference == "a.npy"
    (tmp_path / "a.npy").unlink()
    (tmp_path / "b.npy").unlink()
    assert next(source).reference == "c.npy"


def test_directory_that_is_missing_is_a_settings_error(tmp_path):
    with pytest.raises(SettingsError, match="does not exist: create it"):
        next(open_source(DirectorySettings(kind="directory", path=tmp_path / "no"), Event()))


def test_directory_leaves_folders_in_done_alone(tmp_path):
    (tmp_path / "done" / "mine").mkdir(parents=True)
    put(tmp_path, "a.npy", 1, age=1)
    take(tmp_path, 1, keep=0)
    assert names(tmp_path / "done") == []
    assert (tmp_path / "done" / "mine").is_dir()


def test_directory_that_may_not_be_written_is_a_settings_error(tmp_path):
    (tmp_path / "done").write_text("in the way")
    with pytest.raises(SettingsError, match="cannot be made"):
        next(open_source(DirectorySettings(kind="directory", path=tmp_path), Event()))
