import sys
import threading

import cv2
import numpy as np
import pytest

from edge_agent.sources.camera import ask_for, fitted, samples
from edge_agent.sources.settings import CameraSettings
from shared.errors import SampleError, SettingsError
from shared.manifest import TensorSpec
from tests.sim.sources import SimulatedCamera, Watched

BLUE, GREEN, RED = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def frame(value=(0, 0, 0), height=2, width=2):
    return np.full((height, width, 3), value, np.uint8)


def camera_settings(**options):
    return CameraSettings(kind="camera", retry_first_s=0.001, retry_cap_s=0.001, **options)


class Opener:
    """Gives these cameras one after the other, and then sets `stop`."""

    def __init__(self, *cameras, stop):
        self.cameras, self.stop = list(cameras), stop
        self.opened = 0

    def __call__(self, settings):
        if self.opened == len(self.cameras):
            self.stop.set()
            return None
        self.opened += 1
        return self.cameras[self.opened - 1]


@pytest.fixture
def stop():
    return threading.Event()


@pytest.fixture
def watched():
    return Watched(shape=(2, 2, 3))


def test_slow_agent_gets_the_newest_frame_and_the_others_are_counted(watched, stop):
    gate = threading.Event()
    camera = SimulatedCamera([frame((n, n, n)) for n in range(10)], gate=gate)
    source = samples(camera_settings(), watched.context, stop, opener=Opener(camera, stop=threading.Event()))
    assert next(source).decode(watched.spec)[0, 0, 0] == 0
    gate.set()
    watched.wait_until(lambda: watched.overrun == 8)
    assert next(source).decode(watched.spec)[0, 0, 0] == 9
    stop.set()
    assert list(source) == []
    assert camera.closed


def test_camera_that_blocks_gives_every_frame(watched, stop):
    camera = SimulatedCamera([frame((n, n, n)) for n in range(20)])
    source = samples(
        camera_settings(when_slow="block"), watched.context, stop, opener=Opener(camera, stop=threading.Event())
    )
    got = [next(source) for _ in range(20)]
    stop.set()
    assert list(source) == []
    assert [int(each.decode(watched.spec)[0, 0, 0]) for each in got] == list(range(20))
    assert [each.reference for each in got] == list(range(20))
    assert watched.overrun == 0


def test_camera_that_is_pulled_out_is_waited_for_and_each_turn_said_once(watched, stop, caplog):
    caplog.set_level("INFO")
    cameras = [SimulatedCamera([frame((1, 1, 1))]), None, None, SimulatedCamera([frame((2, 2, 2))])]
    opener = Opener(*cameras, stop=threading.Event())
    source = samples(camera_settings(when_slow="block"), watched.context, stop, opener=opener)

    def said():
        texts = [record.message for record in caplog.records if record.name.endswith("outage")]
        return [("no picture from 0" in text, "there again" in text) for text in texts]

    assert [int(next(source).decode(watched.spec)[0, 0, 0]) for _ in range(2)] == [1, 2]
    watched.wait_until(lambda: len(said()) == 3)
    stop.set()
    assert list(source) == []
    assert cameras[0].closed
    assert cameras[3].closed
    assert said() == [(True, False), (False, True), (True, False)]


def test_camera_with_an_interval_lets_frames_pass_undecoded(watched, stop):
    camera = SimulatedCamera([frame()] * 1000)
    opener = Opener(camera, stop=stop)
    source = samples(camera_settings(interval_s=3600, when_slow="block"), watched.context, stop, opener=opener)
    assert len(list(source)) <= 1
    assert (camera.decoded, camera.passed) == (1, 999)


def test_video_file_ends_its_source(watched, stop, tmp_path):
    (tmp_path / "film.avi").touch()
    camera = SimulatedCamera([frame()] * 3)
    opener = Opener(camera, stop=stop)
    settings = camera_settings(device=str(tmp_path / "film.avi"), when_slow="block")
    assert len(list(samples(settings, watched.context, stop, opener=opener))) == 3
    assert opener.opened == 1
    assert not stop.is_set()


@pytest.mark.parametrize(
    ("shape", "dtype", "pixel"),
    [
        ((4, 6, 3), "uint8", [0, 0, 255]),
        ((4, 6, 4), "uint8", [0, 0, 255, 255]),
        ((4, 6, 3), "float32", [0, 0, 255]),
        ((4, 6, 1), "uint8", [29]),
        ((4, 6), "int16", 29),
    ],
)
def test_frame_becomes_the_tasks_tensor(shape, dtype, pixel):
    tensor = fitted(frame(BLUE, height=48, width=64), TensorSpec(shape=shape, dtype=dtype))
    assert (tensor.shape, str(tensor.dtype)) == (shape, dtype)
    assert tensor[2, 3].tolist() == pixel
    assert tensor.flags.c_contiguous


def test_frame_keeps_its_sides_and_is_averaged_when_it_shrinks():
    wide = np.zeros((2, 8, 3), np.uint8)
    wide[:, :4] = RED
    wide[0, 4:6] = 200
    tensor = fitted(wide, TensorSpec(shape=(1, 4, 3), dtype="uint8"))
    assert tensor[0].tolist() == [[255, 0, 0], [255, 0, 0], [100, 100, 100], [0, 0, 0]]


def test_frame_grows_and_keeps_its_size():
    assert (fitted(frame(GREEN), TensorSpec(shape=(5, 7, 3), dtype="uint8")) == [0, 255, 0]).all()
    same = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.testing.assert_array_equal(fitted(same, TensorSpec(shape=(2, 2, 3), dtype="uint8")), same[..., ::-1])


@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [((3, 8, 8), "uint8", r"fits \[H, W\]"), ((4, 4, 3), "int8", "does not fit without loss")],
)
def test_task_that_takes_no_frame_is_told(shape, dtype, words):
    with pytest.raises(SampleError, match=words):
        fitted(frame(), TensorSpec(shape=shape, dtype=dtype))


class CaptureStandIn:
    def __init__(self):
        self.asked = []

    def set(self, name, value):
        self.asked.append((name, value))
        return False


def test_driver_is_asked_for_the_format_before_the_size():
    capture = CaptureStandIn()
    ask_for(capture, camera_settings(width=640, height=480, fps=15, fourcc="MJPG"))
    assert capture.asked == [
        (cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*"MJPG")),
        (cv2.CAP_PROP_FRAME_WIDTH, 640),
        (cv2.CAP_PROP_FRAME_HEIGHT, 480),
        (cv2.CAP_PROP_FPS, 15),
        (cv2.CAP_PROP_BUFFERSIZE, 1),
    ]


def test_driver_is_not_asked_for_what_the_settings_leave_out():
    capture = CaptureStandIn()
    ask_for(capture, camera_settings())
    assert capture.asked == [(cv2.CAP_PROP_BUFFERSIZE, 1)]


def test_camera_without_opencv_says_what_to_install(watched, stop, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(SettingsError, match=r"pip install 'edgeloop\[camera\]'"):
        samples(camera_settings(), watched.context, stop)
