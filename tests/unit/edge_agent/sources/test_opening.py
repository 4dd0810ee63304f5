import threading

import numpy as np
import pytest

from edge_agent.sources.opening import open_source
from edge_agent.sources.settings import CameraSettings, MicrophoneSettings, ReplaySettings
from shared.errors import SettingsError
from tests.sim.sources import Watched


@pytest.fixture
def file(tmp_path):
    def write(samples):
        np.savez(tmp_path / "s.npz", x=np.stack(samples))
        return tmp_path / "s.npz"

    return write


def opened(path, watched, **options):
    return open_source(ReplaySettings(kind="replay", path=path, **options), watched.context, threading.Event())


def test_requests_carry_what_the_settings_say(file):
    path = file([np.full((2, 2), n, np.uint8) for n in range(3)])
    requests = list(opened(path, Watched(), training_use=False, audit_fraction=0.25))
    assert [(each.reference, int(each.tensor[0, 0])) for each in requests] == [(0, 0), (1, 1), (2, 2)]
    assert {(each.training_use, each.audit_fraction, each.deadline_s) for each in requests} == {(False, 0.25, None)}


def test_sample_of_another_shape_is_refused_and_the_next_one_taken(file):
    watched = Watched(shape=(3,))
    assert list(opened(file([np.zeros(4, np.uint8)] * 2), watched)) == []
    assert watched.refused == ["a sample of shape [4]; the task takes uint8 [3]"] * 2


def test_under_pressure_the_first_of_so_many_is_taken_and_the_rest_counted(file):
    watched = Watched(thin=3)
    requests = list(opened(file([np.zeros((2, 2), np.uint8)] * 8), watched))
    assert [each.reference for each in requests] == [0, 3, 6]
    assert watched.skipped == 5


def test_sample_that_is_not_taken_is_not_decoded(file):
    watched = Watched(thin=2)
    list(opened(file([np.zeros(9, np.uint8)] * 4), watched))
    assert len(watched.refused) == 2


def test_end_of_the_pressure_is_felt_at_the_next_sample(file):
    watched = Watched(thin=100)
    taken = []
    for request in opened(file([np.zeros((2, 2), np.uint8)] * 5), watched):
        taken.append(request.reference)
        watched.thin = 1
    assert taken == [0, 1, 2, 3, 4]


def test_model_that_takes_another_tensor_is_asked_sample_by_sample(file):
    watched = Watched()
    taken = []
    for request in opened(file([np.full((2, 2), n, np.uint8) for n in range(2)]), watched):
        taken.append(request.tensor.dtype)
        watched.spec = watched.spec.model_copy(update={"dtype": "float32"})
    assert taken == [np.uint8, np.float32]


def test_camera_and_microphone_are_opened_by_their_kind():
    stop = threading.Event()
    stop.set()
    assert list(open_source(CameraSettings(kind="camera"), Watched().context, stop)) == []
    with pytest.raises(SettingsError, match="set window_s"):
        next(open_source(MicrophoneSettings(kind="microphone"), Watched().context, stop))
