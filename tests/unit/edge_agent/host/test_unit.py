"""The unit's text, and systemd's own opinion of it."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.host.needs import Needs
from edge_agent.host.unit import Plan, command_word, path_word, render

PLAN = Plan(
    name="edge-agent",
    title="edgeloop edge agent plant/cam-1",
    command=("/opt/edgeloop/bin/edge-agent", "run", "--config", "/etc/edge-agent/agent.toml"),
    config=Path("/etc/edge-agent/agent.toml"),
    state_dir=Path("/var/lib/edge-agent"),
    program_folders=(Path("/opt/edgeloop"), Path("/usr")),
    needs=Needs(reads=(Path("/etc/edge-agent/factory.bundle"),)),
    user=None,
    memory_max="50%",
    cpu_quota="160%",
    systemd=252,
)


def lines(plan=PLAN):
    return render(plan).splitlines()


def test_unit_waits_for_the_agents_word_and_watches_it():
    text = lines()
    for wanted in (
        "Type=notify",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "ExecStart=/opt/edgeloop/bin/edge-agent run --config /etc/edge-agent/agent.toml",
        "WatchdogSec=30",
        "Restart=on-failure",
        "DynamicUser=yes",
        "StateDirectory=edge-agent",
        "MemoryMax=50%",
        "CPUQuota=160%",
        "Environment=ORT_DISABLE_TELEMETRY=1",
        "EnvironmentFile=-/etc/edge-agent/agent.env",
        "MemoryDenyWriteExecute=yes",
        "PrivateDevices=yes",
        "ProtectHome=yes",
    ):
        assert wanted in text


def test_unit_uses_what_a_newer_systemd_can():
    text = lines(replace(PLAN, systemd=254))
    assert "Type=notify-reload" in text
    assert not any(line.startswith("ExecReload") for line in text)
    assert "RestartSteps=8" in text
    assert "RestartSteps=8" not in lines(replace(PLAN, systemd=253))


def test_unit_grants_devices_only_where_they_are_used():
    needs = Needs(devices=("char-video4linux rw",), groups=("video",), executable_memory=True)
    text = lines(replace(PLAN, needs=needs))
    assert "DeviceAllow=char-video4linux rw" in text
    assert "DevicePolicy=closed" in text
    assert "SupplementaryGroups=video" in text
    assert "PrivateDevices=yes" not in text
    assert "MemoryDenyWriteExecute=yes" not in text


def test_unit_hands_the_key_over_so_that_its_file_stays_roots():
    text = lines(replace(PLAN, needs=Needs(secret=("key_file", Path("/etc/edge-agent/device.key")))))
    assert "LoadCredential=broker-key:/etc/edge-agent/device.key" in text
    assert "Environment=EDGE_AGENT__BROKER__KEY_FILE=%d/broker-key" in text


def test_unit_of_an_own_account_and_another_state_folder_may_write_there_alone():
    text = lines(replace(PLAN, user="edge", state_dir=Path("/data/edge"), needs=Needs(writes=(Path("/data/edge/in"),))))
    assert "User=edge" in text
    assert "DynamicUser=yes" not in text
    assert [line for line in text if line.startswith("ReadWritePaths")] == ["ReadWritePaths=-/data/edge"]
    assert not any(line.startswith("StateDirectory") for line in text)


def test_unit_of_a_program_in_a_home_shows_the_service_nothing_else_of_it():
    home = Path("/home/pi")
    plan = replace(
        PLAN,
        config=home / "agent/agent.toml",
        program_folders=(home / "venv", Path("/usr")),
        needs=Needs(reads=(home / "agent/factory.bundle",), writes=(home / "in box",)),
    )
    text = lines(plan)
    assert "ProtectHome=tmpfs" in text
    assert [line for line in text if line.startswith("Bind")] == [
        "BindReadOnlyPaths=-/home/pi/agent",
        "BindReadOnlyPaths=-/home/pi/venv",
        'BindPaths="-/home/pi/in box"',
    ]


def test_unit_makes_the_folder_of_a_local_socket():
    assert "RuntimeDirectory=edge-agent" in lines(replace(PLAN, needs=Needs(runtime=("edge-agent",))))


@pytest.mark.parametrize(
    ("word", "written"),
    [("/a/b", "/a/b"), ("/a b", '"/a b"'), ("100%", "100%%"), ("$HOME", "$$HOME"), ('a"b\\', '"a\\"b\\\\"')],
)
def test_unit_writes_a_word_so_that_systemd_reads_the_same(word, written):
    assert command_word(word) == written


def test_unit_leaves_a_dollar_in_a_path_alone():
    assert path_word("/a$b") == "/a$b"


CAMERA = Needs(
    devices=("char-video4linux rw", "char-alsa rw"), groups=("video", "audio"), secret=("key_file", Path("/etc/k.pem"))
)


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (Debian: systemd)"
)
@pytest.mark.parametrize(
    ("plan", "limit"),
    [
        (PLAN, 1.2),
        (replace(PLAN, user="daemon"), 1.2),
        (replace(PLAN, needs=CAMERA), 1.3),
        (replace(PLAN, needs=replace(CAMERA, executable_memory=True)), 1.4),
    ],
    ids=["least", "account", "camera and microphone", "gpu"],
)
def test_unit_is_tight_by_systemds_own_judgement(tmp_path, plan, limit):
    file = tmp_path / "edge-agent.service"
    file.write_text(render(plan).replace("/opt/edgeloop/bin/edge-agent", "/bin/true"))
    verify = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", file], capture_output=True, text=True
    )
    # It ends with 0 even where it ignores a line: what it says counts.
    assert [line for line in verify.stderr.splitlines() if "edge-agent.service" in line] == []
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", file]
    told = subprocess.run(command, capture_output=True, text=True)
    level = re.search(r"Overall exposure level for \S+: ([\d.]+)", told.stdout)
    assert level, told.stderr
    assert float(level.group(1)) <= limit
