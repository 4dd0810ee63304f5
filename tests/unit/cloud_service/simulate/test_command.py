"""The command's own errors; tests/e2e/test_fleet.py runs it against a service."""

import io
import re
from inspect import signature
from pathlib import Path

import pytest

from cloud_service import cli
from cloud_service.simulate.cli import simulate
from cloud_service.simulate.fleet import Report, raise_file_limit
from cloud_service.simulate.tally import Tally
from cloud_service.simulate.view import LiveLine, print_report
from shared.errors import SettingsError


@pytest.fixture
def run_simulate(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["edgeloop", "simulate", *arguments])
        code = cli.main()
        return code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--shape", "8x8"], "--shape 8x8"),
        (["--shape", "0,8"], "--shape 0,8"),
        (["--broker", "host:many"], "HOST:PORT"),
        (["--data", "/nowhere.npz"], "/nowhere.npz"),
        (["--dtype", "text"], "--dtype text"),
        (["--ca-file", "/nowhere.pem"], "certificates"),
    ],
)
def test_wrong_options_end_in_one_line_and_a_code(run_simulate, arguments, word):
    code, text = run_simulate(*arguments)
    assert code == 2
    assert word in text
    assert "Traceback" not in text


def test_page_names_options_that_exist_and_none_is_forgotten_that_changes_the_load():
    text = (Path(__file__).parents[4] / "docs" / "simulate.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`?(--[a-z][a-z-]*)", text))
    known = {
        "--json" if name == "as_json" else "--" + name.replace("_", "-") for name in signature(simulate).parameters
    }
    assert named <= known
    assert {"--rate", "--pattern", "--churn", "--duplicates", "--malformed", "--deadline-ms", "--keep"} <= named


def test_missing_broker_is_said(run_simulate, free_port):
    code, text = run_simulate("--broker", f"127.0.0.1:{free_port()}", "--duration", "1")
    assert code == 69
    assert "no MQTT broker answers" in text


def test_more_devices_than_the_system_allows_is_said():
    with pytest.raises(SettingsError, match="open files"):
        raise_file_limit(10**9)


def test_report_names_everything_that_was_counted(capsys):
    tally = Tally(samples=12_345)
    tally.spoilt["cut"] += 2
    tally.verdict.add(0.25)
    print_report(Report(tally, 7, 1.0, lost=3))
    text = capsys.readouterr().out
    for word in ("12,345", "cut 2", "p50 2", "lost", "broker_refused"):
        assert word in text
    named = {name for name, value in Report(tally, 7, 1.0, lost=3).as_json().items()}
    assert all(name in text for name in named - {"devices", "seconds"})


def test_live_line_without_a_terminal_comes_now_and_then(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr("sys.stderr", out)
    line = LiveLine()
    for _ in range(5):
        line.show(Tally(samples=5), 3, 1.0)
    line.end()
    assert out.getvalue().count("\n") == 1
    assert "3 connected" in out.getvalue()
