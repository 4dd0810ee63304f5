import time
from threading import Event, Thread

import numpy as np
import pytest

from edge_agent.sources.replay import samples
from edge_agent.sources.settings import ReplaySettings
from shared.errors import SettingsError
from tests.sim.sources import Watched

X = np.arange(5 * 4, dtype=np.uint8).reshape(5, 4)


@pytest.fixture
def watched():
    return Watched(shape=(4,))


@pytest.fixture
def file(tmp_path):
    np.savez(tmp_path / "stream.npz", x=X, reference=np.array([10, 11, 12, 13, 14]))
    return tmp_path / "stream.npz"


def play(path, watched, stop=None, **options):
    return samples(ReplaySettings(kind="replay", path=path, **options), watched.context, stop or Event())


def test_replay_gives_every_sample_in_order_with_its_reference(file, watched):
    got = list(play(file, watched))
    np.testing.assert_array_equal(np.stack([each.decode(watched.spec) for each in got]), X)
    assert [each.reference for each in got] == [10, 11, 12, 13, 14]
    assert all(type(each.reference) is int for each in got)


def test_replay_without_references_counts(tmp_path, watched):
    np.savez(tmp_path / "s.npz", x=X)
    assert [each.reference for each in play(tmp_path / "s.npz", watched)] == [0, 1, 2, 3, 4]


def test_replay_repeats_until_stopped(file, watched):
    stop = Event()
    got = []
    for each in play(file, watched, stop, repeat=True):
        got.append(each.reference)
        if len(got) == 12:
            stop.set()
    assert got == [10, 11, 12, 13, 14] * 2 + [10, 11]


def test_replay_keeps_its_rate(file, watched):
    began = time.monotonic()
    assert len(list(play(file, watched, rate_hz=50.0))) == 5
    assert 4 / 50 <= time.monotonic() - began < 1.0
    assert watched.waited == 0


def test_replay_makes_no_burst_after_a_late_consumer_and_counts_it(file, watched):
    source = play(file, watched, rate_hz=20.0)
    next(source)
    Event().wait(0.3)
    next(source)
    next(source)
    began = time.monotonic()
    next(source)
    next(source)
    assert time.monotonic() - began > 0.07
    assert watched.waited == 1
    assert watched.overrun == 0


def test_replay_that_drops_goes_on_like_a_sensor(file, watched):
    source = play(file, watched, rate_hz=20.0, when_slow="drop_oldest", buffer=1)
    first = next(source).reference
    watched.wait_until(lambda: watched.overrun >= 3)
    assert (first, [each.reference for each in source]) == (10, [14])
    assert (watched.overrun, watched.waited) == (3, 0)


def test_replay_stops_while_it_waits(file, watched):
    stop = Event()
    got = []
    thread = Thread(target=lambda: got.extend(play(file, watched, stop, rate_hz=0.01)))
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


@pytest.mark.parametrize("when_slow", ["block", "drop_oldest"])
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
def test_replay_file_that_cannot_be_used_is_a_settings_error(tmp_path, watched, write, when_slow):
    path = tmp_path / "s.npz"
    write(path)
    with pytest.raises(SettingsError, match=str(path)):
        next(play(path, watched, when_slow=when_slow))
