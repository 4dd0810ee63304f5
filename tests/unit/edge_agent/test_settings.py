import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from edge_agent.deciding.policy import OffloadMode
from edge_agent.settings import AgentSettings
from shared.errors import SettingsError
from tests.harness import ROOT

MINIMAL = """
site = "demo"
device = "cam-1"
state_dir = "/var/lib/edge-agent"
[tasks.digits]
bundle = "factory.bundle"
"""

EVERYTHING = """
site = "demo"
device = "cam-1"
state_dir = "/var/lib/edge-agent"
[broker]
host = "broker.example"
port = 8883
[tasks.digits]
bundle = "factory.bundle"
offload = "hard+audit"
audit_fraction = 0.05
training_use = true
deadline_s = 0.2
[[tasks.digits.sources]]
kind = "replay"
path = "stream.npz"
rate_hz = 20.0
training_use = true
repeat = false
[[tasks.digits.sources]]
kind = "directory"
path = "in"
keep = 10
[outcomes]
path = "outcomes.jsonl"
[spool]
max_bytes = 268435456
max_age_s = 2592000
resend_after_s = 30.0
[telemetry]
interval_s = 5.0
[updates]
download_tries = 3
"""


def load(tmp_path, text, **options):
    file = tmp_path / "agent.toml"
    file.write_text(text)
    return AgentSettings.load(file, environ=options.pop("environ", {}), **options)


def test_defaults_are_the_safe_ones(tmp_path):
    settings = load(tmp_path, MINIMAL)
    task = settings.tasks["digits"]
    assert (task.offload, task.training_use, task.deadline_s) == (OffloadMode.HARD_AND_AUDIT, True, 0.0)
    assert (settings.spool.max_bytes, settings.spool.resend_after_s) == (256 * 1024**2, 30.0)
    assert (settings.broker.host, settings.broker.port) == ("127.0.0.1", 1883)
    assert settings.outcomes.path is None
    assert settings.updates.max_bytes == 256 * 1024**2
    assert task.sources == ()


def test_every_table_can_be_set(tmp_path):
    settings = load(tmp_path, EVERYTHING)
    replay, directory = settings.tasks["digits"].sources
    assert (replay.kind, replay.rate_hz, replay.path) == ("replay", 20.0, Path("stream.npz"))
    assert (directory.kind, directory.keep) == ("directory", 10)
    assert (settings.broker.address, settings.updates.download_tries) == ("broker.example:8883", 3)


def test_environment_and_command_line_override_the_file(tmp_path):
    environ = {"EDGE_AGENT__BROKER__HOST": "from-environment", "EDGE_AGENT__DEVICE": "cam-2"}
    settings = load(tmp_path, EVERYTHING, environ=environ, overrides=["device=cam-3", "tasks.digits.offload=never"])
    assert (settings.broker.host, settings.broker.port, settings.device) == ("from-environment", 8883, "cam-3")
    assert settings.tasks["digits"].offload is OffloadMode.NEVER


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("[tasks.digits]", "[tasks.digits]\nofload = 'never'"), "did you mean 'offload'?"),
        (("[broker]", "[[tasks.digits.sources]]\nkind = 'camera'\nwidht = 5\n[broker]"), "did you mean 'width'?"),
        (
            ("[broker]", "[[tasks.digits.sources]]\nkind = 'http'\nurl = 'http://x'\nintervall = 5\n[broker]"),
            "did you mean 'interval_s'?",
        ),
        (("[broker]", "[outcomes.webhook]\nurl = 'http://x'\ntopik = 5\n[broker]"), "known here: batch, counts_in_day"),
        (("[broker]", "[brokr]"), "did you mean 'broker'?"),
        (("max_age_s", "max_age"), "did you mean 'max_age_s'?"),
        (("rate_hz", "rate"), "unknown key"),
        (('kind = "replay"', 'kind = "camera"'), "tasks.digits.sources.0"),
        (('"hard+audit"', '"sometimes"'), "tasks.digits.offload"),
        (("audit_fraction = 0.05", "audit_fraction = 1.5"), "tasks.digits.audit_fraction"),
        (("port = 8883", "port = 0"), "broker.port"),
        (("268435456", "10"), "spool.max_bytes"),
        (('site = "demo"', 'site = "de/mo"'), "site"),
        (('device = "cam-1"', ""), "missing key 'device'"),
        (("[tasks.digits]", "[tasks.'a b']"), "tasks"),
        (("[outcomes]", "[outcomes"), "not valid TOML"),
    ],
)
def test_wrong_setting_names_its_key(tmp_path, change, said):
    text = EVERYTHING.replace(*change)
    if "tasks.'a b'" in text:
        text = text.replace("tasks.digits", "tasks.'a b'")
    assert text != EVERYTHING
    with pytest.raises(SettingsError, match=re.escape(said)):
        load(tmp_path, text)


def test_agent_without_a_task_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="tasks"):
        load(tmp_path, MINIMAL.partition("[tasks")[0] + "[tasks]\n")


def every_setting(model: type[BaseModel], seen=None):
    seen = set() if seen is None else seen
    for name, field in model.model_fields.items():
        seen.add(name)
        for inner in models_in(field.annotation):
            every_setting(inner, seen)
    return seen


def models_in(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in models_in(argument)]


def test_every_setting_is_found():
    found = every_setting(AgentSettings)
    assert {"site", "state_dir", "reconnect_cap_s", "poll_s", "self_test_timeout_s", "save_interval_s"} <= found


def test_every_setting_is_documented():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    text = "\n".join(page.read_text() for page in pages if page.exists())
    if "poll_s" not in text:
        pytest.skip("no page describes the agent's settings one by one yet")
    missing = sorted(name for name in every_setting(AgentSettings) if not re.search(rf"\b{name}\b", text))
    assert missing == []


def test_relative_paths_are_below_the_settings_file(tmp_path):
    file = tmp_path / "agent.toml"
    file.write_text(
        """
site = "s"
device = "d"
state_dir = "state"
outcomes = { path = "out.jsonl" }
broker = { ca_file = "ca.pem" }
[tasks.digits]
bundle = "factory.bundle"
[[tasks.digits.sources]]
kind = "replay"
path = "/data/stream.npz"
"""
    )
    settings = AgentSettings.read(file)
    assert settings.state_dir == tmp_path / "state"
    assert settings.outcomes.path == tmp_path / "out.jsonl"
    assert settings.broker.ca_file == tmp_path / "ca.pem"
    assert settings.tasks["digits"].bundle == tmp_path / "factory.bundle"
    assert settings.tasks["digits"].sources[0].path == Path("/data/stream.npz")
    assert str(AgentSettings.read(file, overrides=["outcomes.path=-"]).outcomes.path) == "-"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('[tasks.digits.sources]\nkind = "stdin"', "write [[tasks.digits.sources]] instead of [tasks.digits.sources]"),
        ('[[tasks.digits.sources]]\npath = "in"', "missing key 'tasks.digits.sources.0.kind'"),
        (
            '[[tasks.digits.sources]]\nkind = "directori"\npath = "in"',
            "tasks.digits.sources.0.kind: there is no 'directori'; did you mean 'directory'?",
        ),
    ],
)
def test_source_that_is_none_is_told_with_the_remedy(tmp_path, table, said):
    with pytest.raises(SettingsError, match=re.escape(said)):
        load(tmp_path, MINIMAL + table)
