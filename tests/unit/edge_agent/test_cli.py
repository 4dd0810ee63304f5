import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from edge_agent.agent import EdgeAgent
from edge_agent.ledger import Contact, Ledger, Purpose
from edge_agent.status import read_status
from tests.harness import ROOT, free_port
from tests.sim import bundles
from tests.sim.bundles import hard_sample, sample


def edge_agent(*args, **options):
    code = "import sys; sys.argv[0] = 'edge-agent'; from edge_agent.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], cwd=ROOT, capture_output=True, text=True, timeout=60, **options
    )


@pytest.fixture
def config(tmp_path):
    bundles.make(tmp_path / "factory.bundle")
    file = tmp_path / "agent.toml"
    file.write_text(
        f'site = "demo"\ndevice = "cam-1"\nstate_dir = "{tmp_path}/state"\n'
        f"[broker]\nport = {free_port()}\n"
        f'[tasks.digits]\nbundle = "{tmp_path}/factory.bundle"\naudit_fraction = 0.0\n'
    )
    return file


def test_help_names_every_command():
    done = edge_agent("--help")
    assert done.returncode == 0
    for command in ("run", "infer", "status", "doctor", "bench", "install", "uninstall"):
        assert command in done.stdout


@pytest.mark.parametrize("command", [["run"], ["status"]])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda text: text.replace("[broker]", "[brokr]"), "did you mean 'broker'"),
        (lambda text: text + "\n[[[", "not valid TOML"),
        (None, "cannot read the settings file"),
    ],
)
def test_wrong_settings_are_one_line_and_exit_code_2(config, command, spoil, said):
    if spoil:
        config.write_text(spoil(config.read_text()))
    else:
        config.unlink()
    done = edge_agent(*command, "--config", config)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_infer_prints_the_outcome_and_status_tells_what_waits(config, tmp_path):
    np.save(tmp_path / "hard.npy", hard_sample(3))
    done = edge_agent("infer", tmp_path / "hard.npy", "--config", config)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert (outcome["label"], outcome["action"], outcome["reference"]) == ("3", "offload", "hard.npy")
    status = json.loads(edge_agent("status", "--config", config).stdout)
    assert status["tasks"] == {"digits": {"version": "v1", "slot": "a", "previous": None}}
    assert status["spool"]["items"] == 1
    assert status["spool"]["bytes"] > 64
    assert status["counts"]["tasks"]["digits"]["offloaded"] == 1


@pytest.mark.parametrize(
    ("name", "body", "code", "said"),
    [
        ("x.npy", b"nonsense", 65, "not numpy's npy"),
        ("x.npy", b"", 65, "npy"),
        ("x.bin", b"123", 65, "raw of 3 bytes; the task takes uint8 [8, 8], which is 64"),
        ("x.jpg", b"nonsense", 65, ""),
        ("x.txt", b"1", 2, "ends in .npy"),
        (None, b"", 2, "cannot read the sample"),
    ],
)
def test_infer_of_a_file_that_is_no_sample_is_one_line(config, tmp_path, name, body, code, said):
    file = tmp_path / (name or "no.npy")
    if name:
        file.write_bytes(body)
    done = edge_agent("infer", file, "--config", config)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("edge-agent: ")]) == 1
    assert "Traceback" not in done.stderr


def test_infer_takes_images_and_raw_bytes(config, tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed; type: pip install 'edgeloop[images]'")
    (tmp_path / "x.bin").write_bytes(sample(4).tobytes())
    image.fromarray(sample(3, value=255)).save(tmp_path / "x.PNG")
    for file, label in (("x.bin", "4"), ("x.PNG", "3")):
        done = edge_agent("infer", tmp_path / file, "--config", config)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["label"] == label


def test_infer_of_a_wrong_sample_or_task_says_what_is_taken(config, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 3), np.uint8))
    done = edge_agent("infer", tmp_path / "x.npy", "--config", config)
    assert done.returncode == 65
    assert "the task takes uint8 [8, 8]" in done.stderr
    done = edge_agent("infer", tmp_path / "x.npy", "--config", config, "--task", "sounds")
    assert done.returncode == 2
    assert "name one of this device's tasks by task=…: digits" in done.stderr


def test_run_ends_with_its_sources_and_keeps_what_is_not_delivered(config, tmp_path):
    np.savez(tmp_path / "s.npz", x=np.stack([sample(1), sample(2)]))
    with config.open("a") as file:
        file.write(f'[[tasks.digits.sources]]\nkind = "replay"\npath = "{tmp_path}/s.npz"\n')
        file.write('[outcomes]\npath = "-"\n')
    done = edge_agent("run", "--config", config)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["label"] for line in done.stdout.splitlines()] == ["1", "2"]
    assert "the sources have ended" in done.stderr


def test_run_keeps_its_memory_small(config):
    """Where every thread is, a hung process tells the journal: one of them waits to give memory back."""
    # Threads run on while that is written, and now and then it breaks off.
    assert any("footprint.py" in where_its_threads_are(config) for _ in range(3))


def where_its_threads_are(config):
    command = [sys.executable, "-m", "edge_agent.cli", "run", "--config", str(config)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as agent:
        said = ""
        while "ready with model" not in said:
            said = agent.stderr.readline()
            assert said, "it ended before it was ready"
        agent.send_signal(signal.SIGABRT)
        return agent.stderr.read()


def test_run_without_a_working_model_is_one_line_and_exit_code_66(config, tmp_path):
    (tmp_path / "factory.bundle").write_bytes(b"nonsense")
    done = edge_agent("run", "--config", config)
    assert done.returncode == 66
    assert "factory bundle" in done.stderr
    assert "Traceback" not in done.stderr


def test_status_before_the_first_start(config):
    assert read_status(config, []) == {
        "site": "demo",
        "device": "cam-1",
        "broker": read_status(config, [])["broker"],
        "running": False,
        "tasks": {"digits": {"version": None, "slot": None, "previous": None}},
        "spool": {"items": 0, "bytes": 0, "oldest_age_s": None},
        "bytes": {"purposes": {}, "today": 0, "max_per_day": None},
        "contacts": {"connected_s_ago": None, "delivered_s_ago": None},
        "counts": {},
    }


def test_status_of_a_running_agent_says_so_and_how_long_samples_wait(config):
    with EdgeAgent.open(config) as agent:
        agent.infer(hard_sample(3))
        status = read_status(config, ["ledger.max_bytes_per_day=20000"], wall=lambda: time.time() + 60)
    assert status["running"] is True
    assert status["spool"]["items"] == 1
    assert 60 <= status["spool"]["oldest_age_s"] < 90
    assert status["bytes"]["max_per_day"] == 20_000
    assert read_status(config)["running"] is False


def test_status_tells_when_the_device_was_last_connected_and_last_answered(config, tmp_path):
    (tmp_path / "state").mkdir()
    ledger = Ledger(tmp_path / "state" / "ledger.json", wall=lambda: 1_000.0)
    ledger.reached(Contact.CONNECTED)
    ledger.save()
    expected = {"connected_s_ago": 60.0, "delivered_s_ago": None}
    assert read_status(config, wall=lambda: 1_060.0)["contacts"] == expected
    later = Ledger(tmp_path / "state" / "ledger.json", wall=lambda: 1_050.0)
    later.reached(Contact.DELIVERED)
    later.save()
    assert read_status(config, wall=lambda: 1_060.0)["contacts"] == {"connected_s_ago": 60.0, "delivered_s_ago": 10.0}


def test_status_tells_the_bytes_of_today_by_the_ledgers_own_day(config, tmp_path):
    (tmp_path / "state").mkdir()
    ledger = Ledger(tmp_path / "state" / "ledger.json")
    ledger.add_bytes(Purpose.SAMPLES, 700)
    ledger.add_bytes(Purpose.TELEMETRY, 50)
    ledger.save()
    found = read_status(config)["bytes"]
    assert (found["today"], found["purposes"]) == (750, {"samples": 700, "telemetry": 50})
    assert read_status(config, wall=lambda: time.time() + 90_000)["bytes"]["today"] == 0


def test_doctor_prints_findings_and_ends_with_1_where_something_is_wrong(config):
    done = edge_agent("doctor", "--config", config)
    assert done.returncode == 1  # no broker
    assert "nothing answers at 127.0.0.1" in done.stdout
    assert "to mend" in done.stdout
    done = edge_agent("doctor", "--config", config, "--json")
    assert {"check", "level", "says"} == set(json.loads(done.stdout)[0])


def test_install_dry_run_prints_the_unit_and_install_without_systemd_or_root_is_one_line(config, tmp_path):
    config.write_text(config.read_text().replace(f"{tmp_path}/state", "/var/lib/edge-agent"))
    (tmp_path / "systemctl").write_text("#!/bin/sh\necho systemd 252\n")
    (tmp_path / "systemctl").chmod(0o755)
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = edge_agent("install", "--dry-run", "--config", config, "--memory-max", "200M", env=environ)
    assert done.returncode == 0, done.stderr
    assert "MemoryMax=200M" in done.stdout
    assert done.stdout.startswith("# Written by")
    done = edge_agent("install", "--dry-run", "--config", config, env={**os.environ, "PATH": "/nowhere"})
    assert done.returncode == 77
    assert len(done.stderr.strip().splitlines()) == 1


def test_status_with_damaged_files_still_tells_the_rest(config, tmp_path):
    (tmp_path / "state" / "spool").mkdir(parents=True)
    (tmp_path / "state" / "spool" / "spool.db").write_bytes(b"\xff" * 5000)
    (tmp_path / "state" / "ledger.json").write_text("{")
    status = read_status(config, [])
    assert (status["device"], status["counts"]) == ("cam-1", {})
    assert "not a database" in status["spool"]["error"]


def test_status_of_an_odd_folder_name(config, tmp_path):
    text = config.read_text().replace(f"{tmp_path}/state", f"{tmp_path}/st%20a?te#1")
    config.write_text(text)
    np.save(tmp_path / "x.npy", hard_sample(3))
    assert edge_agent("infer", tmp_path / "x.npy", "--config", config).returncode == 0
    assert read_status(config, [])["spool"]["items"] == 1
