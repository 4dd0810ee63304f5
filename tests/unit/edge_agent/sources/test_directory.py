import os
import sys
from threading import Event

import numpy as np
import pytest
from PIL import Image

from edge_agent.sources.opening import open_source
from edge_agent.sources.settings import DirectorySettings
from shared.errors import SettingsError
from tests.sim.sources import Watched


def watch(folder, *, watched=None, stop=None, **options):
    settings = DirectorySettings(kind="directory", path=folder, **{"poll_s": 0.01, **options})
    return open_source(settings, (watched or Watched()).context, stop or Event())


def put(folder, name, value, *, age):
    np.save(folder / name, np.full((2, 2), value, np.uint8))
    os.utime(folder / name, (1e9 - age, 1e9 - age))


def take(folder, count, **options):
    """The next requests; the source is asked once more, so that the last file has moved."""
    stop = Event()
    source = watch(folder, stop=stop, **options)
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
    source = watch(tmp_path)
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
def test_directory_moves_what_is_no_array_to_failed_and_goes_on(tmp_path, write):
    watched = Watched()
    write(tmp_path / "a.npy")
    os.utime(tmp_path / "a.npy", (1, 1))
    put(tmp_path, "b.npy", 7, age=1)
    (request,) = take(tmp_path, 1, watched=watched)
    assert request.reference == "b.npy"
    assert names(tmp_path / "failed") == ["a.npy"]
    assert len(watched.refused) == 1
    assert watched.refused[0].startswith("a.npy was moved to failed/: ")


def write_image(path, size=(2, 2)):
    Image.new("RGB", size, (200, 200, 200)).save(path)


def test_directory_takes_arrays_images_and_raw_bytes(tmp_path):
    write_image(tmp_path / "a.PNG")
    write_image(tmp_path / "b.jpg", (64, 48))
    write_image(tmp_path / "c.jpeg")
    (tmp_path / "d.bin").write_bytes(bytes([1, 2, 3, 4]))
    put(tmp_path, "e.npy", 5, age=1)
    got = {each.reference: each.tensor.tolist() for each in take(tmp_path, 5)}
    grey = [[200, 200], [200, 200]]
    assert got == {"a.PNG": grey, "b.jpg": grey, "c.jpeg": grey, "d.bin": [[1, 2], [3, 4]], "e.npy": [[5, 5], [5, 5]]}


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.npy", lambda path: np.save(path, np.zeros((3, 3), np.uint8))),
        ("a.npy", lambda path: np.save(path, np.zeros((2, 2), np.float64))),
        ("a.bin", lambda path: path.write_bytes(b"123")),
        ("a.bin", lambda path: path.write_bytes(b"12345")),
        ("a.jpg", lambda path: path.write_bytes(b"\xff\xd8\xff half of one")),
    ],
)
def test_directory_moves_what_is_no_sample_of_the_task_to_failed(tmp_path, name, write):
    watched = Watched()
    write(tmp_path / name)
    os.utime(tmp_path / name, (1, 1))
    put(tmp_path, "b.npy", 7, age=1)
    take(tmp_path, 1, watched=watched)
    assert (names(tmp_path / "failed"), names(tmp_path / "done")) == ([name], ["b.npy"])
    assert len(watched.refused) == 1


def test_directory_reads_no_more_of_a_file_than_a_sample_has(tmp_path):
    with (tmp_path / "a.bin").open("wb") as file:
        file.truncate(1 << 40)  # a terabyte, all of it a hole
    os.utime(tmp_path / "a.bin", (1, 1))
    watched = Watched()
    put(tmp_path, "b.npy", 7, age=1)
    take(tmp_path, 1, watched=watched)
    assert watched.refused == [
        "a.bin was moved to failed/: raw of 5 bytes; the task takes uint8 [2, 2], at most 4 bytes"
    ]


def test_without_pillow_images_are_left_lying(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    write_image(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    put(tmp_path, "b.npy", 7, age=1)
    take(tmp_path, 1)
    assert names(tmp_path) == ["a.png"]
    assert "pip install 'edgeloop[images]'" in caplog.text


def test_file_that_is_not_taken_under_pressure_is_done_with(tmp_path):
    watched = Watched(thin=2)
    for age in range(4):
        put(tmp_path, f"{age}.npy", age, age=age)
    assert [each.reference for each in take(tmp_path, 2, watched=watched)] == ["3.npy", "1.npy"]
    assert names(tmp_path / "done") == ["1.npy", "2.npy", "3.npy"]


def test_directory_keeps_only_so_many(tmp_path):
    for age in range(6):
        put(tmp_path, f"{age}.npy", age, age=age)
    take(tmp_path, 6, keep=2)
    assert names(tmp_path / "done") == ["0.npy", "1.npy"]


def test_directory_sees_files_that_come_later(tmp_path):
    source = watch(tmp_path)
    put(tmp_path, "a.npy", 1, age=1)
    next(source)
    put(tmp_path, "b.npy", 2, age=1)
    assert next(source).reference == "b.npy"


def test_directory_survives_a_file_that_somebody_takes_away(tmp_path):
    source = watch(tmp_path)
    put(tmp_path, "a.npy", 1, age=3)
    put(tmp_path, "b.npy", 2, age=2)
    put(tmp_path, "c.npy", 3, age=1)
    assert next(source).reference == "a.npy"
    (tmp_path / "a.npy").unlink()
    (tmp_path / "b.npy").unlink()
    assert next(source).reference == "c.npy"


def test_directory_that_is_missing_is_a_settings_error(tmp_path):
    with pytest.raises(SettingsError, match="does not exist: create it"):
        next(watch(tmp_path / "no"))


def test_directory_leaves_folders_in_done_alone(tmp_path):
    (tmp_path / "done" / "mine").mkdir(parents=True)
    put(tmp_path, "a.npy", 1, age=1)
    take(tmp_path, 1, keep=0)
    assert names(tmp_path / "done") == []
    assert (tmp_path / "done" / "mine").is_dir()


def test_directory_that_may_not_be_written_is_a_settings_error(tmp_path):
    (tmp_path / "done").write_text("in the way")
    with pytest.raises(SettingsError, match="cannot be made"):
        next(watch(tmp_path))
