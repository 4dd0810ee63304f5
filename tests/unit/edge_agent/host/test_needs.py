"""What the settings make the service reach for, and no more."""

from pathlib import Path

import pytest

from edge_agent.execution.choice import Provider
from edge_agent.host.needs import Needs, needs_of
from edge_agent.settings import AgentSettings


def needs(*sources, providers=(), **changes):
    values = {
        "site": "plant",
        "device": "cam-1",
        "state_dir": "/var/lib/edge-agent",
        "tasks": {"digits": {"bundle": "/opt/factory.bundle", "sources": list(sources)}},
        **changes,
    }
    return needs_of(AgentSettings.model_validate(values), providers=providers)


def test_needs_of_the_least_settings_are_the_bundle():
    assert needs() == Needs(reads=(Path("/opt/factory.bundle"),))


READINGS = {"kind": "readings", "fields": ["t"], "length": 4}


@pytest.mark.parametrize(
    ("source", "devices", "groups"),
    [
        ({"kind": "camera"}, ("char-video4linux rw",), ("video",)),
        ({"kind": "camera", "device": "/dev/video2"}, ("char-video4linux rw",), ("video",)),
        ({"kind": "camera", "device": "rtsp://cam/1"}, (), ()),
        ({"kind": "microphone"}, ("char-alsa rw",), ("audio",)),
        ({**READINGS, "path": "/dev/ttyUSB0"}, ("char-ttyUSB rw",), ("dialout",)),
        ({**READINGS, "path": "/dev/ttyAMA0"}, ("char-ttyAMA rw",), ("dialout",)),
        ({**READINGS, "path": "/dev/serial/by-id/x"}, ("char-ttyUSB rw", "char-ttyACM rw"), ("dialout",)),
        ({**READINGS, "topic": "t"}, (), ()),
        ({"kind": "http", "url": "http://cam/snapshot"}, (), ()),
        ({"kind": "mqtt", "topic": "t", "payload": "json"}, (), ()),
    ],
)
def test_needs_of_a_source_are_its_devices_and_their_group(source, devices, groups):
    found = needs(source, {"kind": "replay", "path": "/x.npz"})
    assert (found.devices, found.groups) == (devices, groups)
    assert found.reads == (Path("/opt/factory.bundle"), Path("/x.npz"))


def test_needs_of_files_are_read_and_of_watched_folders_written():
    found = needs(
        {"kind": "camera", "device": "/srv/film.mp4"},
        {**READINGS, "path": "/srv/fifo"},
        {"kind": "directory", "path": "/srv/inbox"},
        {"kind": "directory", "path": "/var/lib/edge-agent/inbox"},
        outcomes={"path": "/srv/out/outcomes.jsonl"},
    )
    assert found.reads == (Path("/opt/factory.bundle"), Path("/srv/film.mp4"), Path("/srv/fifo"))
    assert found.writes == (Path("/srv/inbox"), Path("/srv/out"))
    assert not found.devices


def test_needs_of_brokers_are_their_certificates_and_the_key_is_apart():
    tls = {"ca_file": "/c/ca.pem", "cert_file": "/c/dev.pem", "key_file": "/c/dev.key"}
    local = {"ca_file": "/l/ca.pem", "cert_file": "/l/c.pem", "key_file": "/l/k.pem"}
    found = needs({"kind": "mqtt", "topic": "t", "payload": "json", "broker": local}, broker=tls)
    assert found.secret == ("key_file", Path("/c/dev.key"))
    assert [str(path) for path in found.reads] == [
        "/c/ca.pem",
        "/c/dev.pem",
        "/l/ca.pem",
        "/l/c.pem",
        "/l/k.pem",
        "/opt/factory.bundle",
    ]


@pytest.mark.parametrize("source", [{"kind": "stdin"}, {**READINGS, "path": "-"}])
def test_needs_of_standard_input_are_told(source):
    found = needs(source)
    assert found.standard_input
    assert found.reads == (Path("/opt/factory.bundle"),)


def test_needs_of_a_certificate_with_its_key_in_the_same_file_keep_that_apart():
    found = needs(broker={"ca_file": "/c/ca.pem", "cert_file": "/c/both.pem"})
    assert found.secret == ("cert_file", Path("/c/both.pem"))
    assert Path("/c/both.pem") not in found.reads


def test_needs_of_outcomes_on_standard_output_are_none():
    assert needs(outcomes={"path": "-"}).writes == ()


def test_needs_of_an_accelerator_are_granted_where_it_is_used():
    both = (Provider.CUDA, Provider.CPU)
    assert needs(providers=both).executable_memory
    assert "char-nvidia* rw" in needs(providers=both).devices
    only_cpu = needs(providers=both, execution={"provider": "CPU"})
    assert (only_cpu.devices, only_cpu.executable_memory) == ((), False)
    assert needs(providers=(Provider.OPENVINO,)).groups == ("render",)


def test_needs_of_a_local_socket_are_its_folder_below_run():
    assert needs(server={"enabled": True, "socket": "/run/edge-agent/api.sock"}).runtime == ("edge-agent",)
    assert needs(server={"socket": "/run/edge-agent/api.sock"}).runtime == ()
    assert needs(server={"enabled": True, "socket": "/srv/api.sock"}).runtime == ()
