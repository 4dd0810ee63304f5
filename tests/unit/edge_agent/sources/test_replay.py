import time
from threading import Event, Thread

import numpy as np
import pytest

from edge_agent.sources.opening import open_source
from edge_agent.sources.replay import samples
from edge_agent.sources.settings import ReplaySettings
from shared.errors import SettingsError

X = np.arange(5 * 4, dtype=np.uint8).reshape(5, 4)


def settings(path, **options):
    return ReplaySettings(kind="replay", path=path, **options)


@pytest.fixture
def file(tmp_path):
    np.savez(tmp_path / "stream.npz", x=X, reference=np.array([10, 11, 12, 13, 14]))
    return tmp_path / "stream.npz"


def test_replay_gives_every_sample_in_order_with_its_reference(file):
    requests = list(samples(settings(file, training_use=False, audit_fraction=0.5), Event()))
    np.testing.assert_array_equal(np.stack([each.tensor for each in requests]), X)
    assert [each.reference for each in requests] == [10, 11, 12, 13, 14]
    assert all(type(each.reference) is int for each in requests)
    assert {(each.training_use, each.audit_fraction, each.deadline_s) for each in requests} == {(False, 0.5, None)}


def test_replay_without_references_counts(tmp_path):
    np.savez(tmp_path / "s.npz", x=X)
    assert [each.reference for each in open_source(settings(tmp_path / "s.npz"), Event())] == [0, 1, 2, 3, 4]


def test_replay_repeats_until_stopped(file):
    stop = Event()
    got = []
    for request in samples(settings(file, repeat=True), stop):
        got.append(request.reference)
        if len(got) == 12:
            stop.set()
    assert got == [10, 11, 12, 13, 14] * 2 + [10, 11]


def test_replay_keeps_its_rate(file):
    began = time.monotonic()
    assert len(list(samples(settings(file, rate_hz=50.0), Event()))) == 5
    assert 4 / 50 <= time.monotonic() - began < 1.0


def test_replay_makes_no_burst_after_a_late_consumer(file):
    source = samples(settings(file, rate_hz=20.0), Event())
    next(source)
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        Event().wait(0.01)
    next(source)
    next(source)
    began = time.monotonic()
    next(source)
    next(source)
    assert time.monotonic() - began > 0.07


def test_replay_stops_while_it_waits(file):
    stop = Event()
    got = []
    thread = Thread(target=lambda: got.extend(samples(settings(file, rate_hz=0.01), stop)))
    thread.start()
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
    assert len(got) <= 1


def garbage(path):
    path.write_bytes(b"not an archive")


def cut_short(path):
    np.savez(path, x=np.zeros((100, 100)))
    path.write_bytes(path.read_bytes()[:5000])


def empty_file(path):
    path.write_bytes(b"")


def single_array(path):
    with path.open("wb") as file:
        np.save(file, X)


def pickled(path):
    np.savez(path, x=np.array([{}], dtype=object))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: None,
        garbage,
        cut_short,
        empty_file,
        single_array,
        pickled,
        lambda path: path.mkdir(),
        lambda path: np.savez(path, y=X),
        lambda path: np.savez(path, x=X[:0]),
        lambda path: np.savez(path, x=np.array(3)),
        lambda path: np.savez(path, x=X, reference=np.arange(4)),
        lambda path: np.savez(path, x=X, reference=np.array(list("abcde"))),
    ],
)
def test_replay_file_that_cannot_be_used_is_a_settings_error(tmp_path, write):
    path = tmp_path / "s.npz"
    write(path)
    with pytest.raises(SettingsError, match=str(path)):
        next(samples(settings(path), Event()))
