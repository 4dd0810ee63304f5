import sys
import threading

import numpy as np
import pytest

from edge_agent.sources.microphone import MicrophoneLost, samples
from edge_agent.sources.settings import MicrophoneSettings
from shared.errors import SettingsError
from tests.sim.sources import SimulatedMicrophone, Watched

RATE = 100  # so that ten samples are read at once


def microphone_settings(**options):
    return MicrophoneSettings(
        kind="microphone", **{"rate_hz": RATE, "retry_first_s": 0.001, "retry_cap_s": 0.001, "buffer": 100, **options}
    )


def sound(count, channels=1, start=0):
    return np.arange(start, start + count * channels, dtype=np.int16).reshape(count, channels)


class Opener:
    """Gives these microphones one after the other (None: there is none), and then sets `stop`."""

    def __init__(self, *microphones, stop):
        self.microphones, self.stop = list(microphones), stop
        self.dtypes = []

    def __call__(self, settings, dtype):
        self.dtypes.append(dtype)
        microphone = self.microphones.pop(0) if self.microphones else None
        if not self.microphones:
            self.stop.wait(5)  # until the test has what it wants
        if microphone is None:
            raise MicrophoneLost("no microphone (simulated)")
        return microphone


@pytest.fixture
def stop():
    return threading.Event()


def record(watched, stop, *microphones, count, **options):
    """The first windows, decoded."""
    opener = Opener(*microphones, None, stop=stop)
    source = samples(microphone_settings(**options), watched.context, stop, opener=opener)
    got = [next(source) for _ in range(count)]
    stop.set()
    assert list(source) == []
    return [each.decode(watched.spec) for each in got], opener


def test_windows_overlap_over_the_reads(stop):
    watched = Watched(shape=(25, 1), dtype="int16")
    windows, opener = record(watched, stop, SimulatedMicrophone(sound(60)), count=4, window_s=0.25, hop_s=0.1)
    assert [window[0, 0] for window in windows] == [0, 10, 20, 30]
    np.testing.assert_array_equal(windows[1], sound(25, start=10))
    assert opener.dtypes[0] == "int16"


def test_one_channel_may_be_without_its_axis(stop):
    watched = Watched(shape=(20,), dtype="int16")
    (window,), _ = record(watched, stop, SimulatedMicrophone(sound(20)), count=1, window_s=0.2)
    np.testing.assert_array_equal(window, np.arange(20))


def test_two_channels_stay_side_by_side(stop):
    watched = Watched(shape=(20, 2), dtype="int16")
    (window,), _ = record(watched, stop, SimulatedMicrophone(sound(20, 2)), count=1, window_s=0.2, channels=2)
    np.testing.assert_array_equal(window, sound(20, 2))


def test_window_never_spans_lost_sound_which_is_counted(stop):
    watched = Watched(shape=(20,), dtype="int16")
    microphone = SimulatedMicrophone(sound(60), overflows=(1, 4))
    windows, _ = record(watched, stop, microphone, count=2, window_s=0.2, hop_s=0.2)
    assert [int(window[0]) for window in windows] == [10, 40]
    assert watched.overrun == 2


def test_slow_agent_loses_the_oldest_windows(stop):
    watched = Watched(shape=(10,), dtype="int16")
    gate = threading.Event()
    opener = Opener(SimulatedMicrophone(sound(50), gate=gate), None, stop=stop)
    options = {"window_s": 0.1, "hop_s": 0.1, "buffer": 1}
    source = samples(microphone_settings(**options), watched.context, stop, opener=opener)
    assert int(next(source).decode(watched.spec)[0]) == 0
    gate.set()
    watched.wait_until(lambda: watched.overrun == 3)
    assert int(next(source).decode(watched.spec)[0]) == 40
    stop.set()
    assert list(source) == []


def test_microphone_that_is_pulled_out_is_waited_for_and_no_window_spans_it(stop, caplog):
    caplog.set_level("INFO")
    watched = Watched(shape=(20,), dtype="int16")
    microphones = (SimulatedMicrophone(sound(30)), None, None, SimulatedMicrophone(sound(20, start=500)))
    windows, _ = record(watched, stop, *microphones, count=2, window_s=0.2, hop_s=0.2)
    assert [int(window[0]) for window in windows] == [0, 500]
    assert microphones[0].closed
    said = [record.message for record in caplog.records if record.name.endswith("outage")]
    assert "the microphone stopped" in said[0]
    assert "is there again" in said[1]
    assert len(said) <= 3


@pytest.mark.parametrize(
    ("shape", "dtype", "options"),
    [
        ((99,), "int16", {}),
        ((100, 2), "int16", {}),
        ((100,), "int16", {"channels": 2}),
        ((100,), "float16", {}),
        ((100, 1, 1), "int16", {}),
    ],
)
def test_window_that_does_not_fit_the_task_is_a_settings_error(stop, shape, dtype, options):
    watched = Watched(shape=shape, dtype=dtype)
    with pytest.raises(SettingsError, match="set window_s, rate_hz and channels"):
        samples(microphone_settings(**options), watched.context, stop, opener=Opener(stop=stop))


def test_microphone_without_sounddevice_says_what_to_install(stop, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(SettingsError, match=r"pip install 'edgeloop\[microphone\]'"):
        samples(microphone_settings(), Watched(shape=(100,), dtype="int16").context, stop)


def test_microphone_without_portaudio_says_what_to_install(stop, monkeypatch, tmp_path):
    # sounddevice raises this where the library is missing.
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingsError, match="sudo apt-get install libportaudio2"):
        samples(microphone_settings(), Watched(shape=(100,), dtype="int16").context, stop)
