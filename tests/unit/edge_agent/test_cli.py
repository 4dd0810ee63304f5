import json
import subprocess
import sys

import numpy as np
import pytest

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
    for command in ("run", "infer", "status"):
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


def test_infer_of_a_file_that_is_no_array_is_one_line(config, tmp_path):
    (tmp_path / "x.npy").write_bytes(b"nonsense")
    done = edge_agent("infer", tmp_path / "x.npy", "--config", config)
    assert done.returncode == 2
    assert "is not a .npy file" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["empty", "archive", "cut"])
def test_infer_of_other_files_is_one_line_too(config, tmp_path, kind):
    file = tmp_path / "x.npy"
    with file.open("wb") as opened:
        np.savez(opened, x=np.zeros((30, 30)))
    if kind != "archive":
        file.write_bytes(file.read_bytes()[: 0 if kind == "empty" else 500])
    done = edge_agent("infer", file, "--config", config)
    assert done.returncode == 2
    assert "is not a .npy file" in done.stderr
    assert "Traceback" not in done.stderr


def test_infer_of_a_wrong_sample_says_what_is_taken(config, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 3)))
    done = edge_agent("infer", tmp_path / "x.npy", "--config", config)
    assert done.returncode == 65
    assert "the task takes [8, 8] and uint8" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_ends_with_its_sources_and_keeps_what_is_not_delivered(config, tmp_path):
    np.savez(tmp_path / "s.npz", x=np.stack([sample(1), sample(2)]))
    with config.open("a") as file:
        file.write(f'[[tasks.digits.sources]]\nkind = "replay"\npath = "{tmp_path}/s.npz"\n')
        file.write('[outcomes]\npath = "-"\n')
    done = edge_agent("run", "--config", config)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["label"] for line in done.stdout.splitlines()] == ["1", "2"]
    assert "the sources have ended" in done.stderr


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
        "tasks": {"digits": {"version": None, "slot": None, "previous": None}},
        "spool": {"items": 0, "bytes": 0},
        "counts": {},
    }


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
