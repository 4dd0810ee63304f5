"""The operator's page tells what the code does: its commands, exit codes, limits and links."""

import re
from pathlib import Path

import pytest
import typer

import edge_agent.errors
import shared.errors
from edge_agent.cli import app
from edge_agent.host import service, session
from edge_agent.host.needs import Needs
from edge_agent.host.unit import Plan, render

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
COMMANDS = set(typer.main.get_command(app).commands)
UNIT = render(
    Plan(
        name="edge-agent",
        title="t",
        command=("/bin/true",),
        config=Path("/etc/edge-agent/agent.toml"),
        state_dir=Path("/var/lib/edge-agent"),
        program_folders=(),
        needs=Needs(),
        user=None,
        memory_max="50%",
        cpu_quota="80%",
        systemd=254,
    )
)


def errors():
    classes = [*vars(shared.errors).values(), *vars(edge_agent.errors).values()]
    return [each for each in classes if isinstance(each, type) and issubclass(each, shared.errors.EdgeloopError)]


def test_every_command_is_named_and_no_other():
    assert set(re.findall(r"edge-agent (\w+)", PAGE)) & COMMANDS == COMMANDS - {"run"}
    assert set(re.findall(r"`(?:sudo )?edge-agent (\w+)", PAGE)) <= COMMANDS


def test_every_exit_code_has_its_row():
    rows = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}
    assert rows == {0, *(error.exit_code for error in errors())}


@pytest.mark.parametrize(
    "words", [f"{service.DRAIN_S:g} s at most for the sources", f"{session.CLOSE_S:g} more to save"]
)
def test_limits_of_a_stop_are_the_codes(words):
    assert words in PAGE


def test_limits_of_the_unit_are_the_codes():
    assert "the watchdog (30 s)" in PAGE
    assert "WatchdogSec=30\n" in UNIT
    assert "2 s, growing to 120 s" in PAGE
    assert "RestartSec=2\n" in UNIT
    assert "RestartMaxDelaySec=120\n" in UNIT


def test_options_of_install_are_told():
    (install,) = [command for name, command in typer.main.get_command(app).commands.items() if name == "install"]
    for option in install.params:
        assert option.opts[0] in PAGE, option.opts


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
