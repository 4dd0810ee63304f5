"""What the sources need, on a machine that the test makes up."""

import pytest

from edge_agent.host.checks.sources import check_sources
from edge_agent.settings import AgentSettings

READINGS = {"kind": "readings", "fields": ["t"], "length": 4}


@pytest.fixture
def look(tmp_path):
    devices = tmp_path / "dev"
    (devices / "snd").mkdir(parents=True)

    def check(*sources, installed=("cv2", "sounddevice")):
        settings = AgentSettings.model_validate(
            {
                "site": "s",
                "device": "d",
                "state_dir": "/nowhere",
                "tasks": {"digits": {"bundle": "/b", "sources": sources}},
            }
        )
        found = check_sources(settings, is_installed=lambda name: name in installed, devices=devices)
        return [(finding.level.value, finding.says) for finding in found]

    check.devices = devices
    return check


def levels(found):
    return [level for level, _ in found]


def test_task_without_a_source_is_a_programs(look):
    assert look() == [("ok", "digits: none; a program asks")]


def test_files_and_folders_must_be_there(look, tmp_path):
    sources = [
        {"kind": "replay", "path": tmp_path / "x.npz"},
        {"kind": "directory", "path": tmp_path / "inbox"},
        {**READINGS, "path": tmp_path / "fifo"},
    ]
    assert levels(look(*sources)) == ["fail"] * 3
    (tmp_path / "x.npz").touch()
    (tmp_path / "inbox").mkdir()
    (tmp_path / "fifo").touch()
    assert levels(look(*sources)) == ["ok"] * 3


def test_camera_needs_its_device_and_opencv(look):
    assert levels(look({"kind": "camera", "device": 2}, installed=())) == ["fail", "fail"]
    (look.devices / "video2").touch()
    assert levels(look({"kind": "camera", "device": 2})) == levels(look({"kind": "camera", "device": "2"})) == ["ok"]
    assert levels(look({"kind": "camera", "device": "rtsp://cam/1"})) == ["ok"]
    ((_, says),) = look({"kind": "camera", "device": 2}, installed=())
    assert "edgeloop[camera]" in says


def test_microphone_needs_a_card_that_records(look):
    ((level, says),) = look({"kind": "microphone"})
    assert (level, "no sound card" in says) == ("fail", True)
    (look.devices / "snd/pcmC0D0p").touch()  # plays only
    assert levels(look({"kind": "microphone"})) == ["fail"]
    (look.devices / "snd/pcmC0D0c").touch()
    assert levels(look({"kind": "microphone"})) == ["ok"]
    assert "edgeloop[microphone]" in look({"kind": "microphone"}, installed=())[0][1]


def test_secret_sent_in_the_clear_and_standard_input_are_told(look):
    open_, closed = "http://cam/x", "https://cam/x"
    headers = {"Authorization": "Bearer x"}
    assert levels(look({"kind": "http", "url": open_, "headers": headers})) == ["warn"]
    assert levels(look({"kind": "http", "url": closed, "headers": headers})) == ["ok"]
    assert levels(look({"kind": "http", "url": open_})) == ["ok"]
    assert levels(look({"kind": "stdin"})) == levels(look({**READINGS, "path": "-"})) == ["warn"]
