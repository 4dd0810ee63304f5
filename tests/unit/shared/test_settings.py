from pathlib import Path
from typing import ClassVar, Literal

import pytest
from pydantic import Field, ValidationError

from shared.errors import SettingsError
from shared.settings import Section, Settings


class Broker(Section):
    host: str = "127.0.0.1"
    port: int = Field(default=1883, ge=1, le=65535)


class Source(Section):
    kind: Literal["replay", "directory"]
    path: Path
    rate_hz: float | None = None


class Task(Section):
    offload: str = "hard"
    labels: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()


class Example(Settings):
    env_prefix: ClassVar[str] = "EXAMPLE__"

    site: str
    verbose: bool = False
    broker: Broker = Broker()
    fallback: Broker | None = None
    tasks: dict[str, Task] = Field(default_factory=dict)


def load(tmp_path, text="", *overrides, **environ):
    path = tmp_path / "example.toml"
    path.write_text(text)
    return Example.load(path, overrides=overrides, environ=environ)


def refused(tmp_path, text="", *overrides, **environ):
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text, *overrides, **environ)
    return str(caught.value)


FILE = """
site = "file"
[broker]
host = "file"
port = 1
[tasks.digits]
offload = "never"
labels = ["a", "b"]
[[tasks.digits.sources]]
kind = "replay"
path = "x.npz"
"""


def test_file_gives_typed_values(tmp_path):
    settings = load(tmp_path, FILE)
    assert settings.broker == Broker(host="file", port=1)
    assert settings.tasks["digits"].sources == (Source(kind="replay", path=Path("x.npz")),)
    assert settings.fallback is None


def test_environment_lies_over_the_file_and_the_command_line_over_both(tmp_path):
    environ = {"EXAMPLE__BROKER__HOST": "environment", "EXAMPLE__SITE": "environment"}
    settings = load(tmp_path, FILE, "broker.host=override", **environ)
    assert (settings.site, settings.broker.host, settings.broker.port) == ("environment", "override", 1)
    assert load(tmp_path, FILE, **environ).broker == Broker(host="environment", port=1)


def test_last_of_two_overrides_wins(tmp_path):
    assert load(tmp_path, FILE, "broker.port=2", "broker.port=3").broker.port == 3


def test_layers_reach_into_maps_of_tables(tmp_path):
    settings = load(tmp_path, FILE, "tasks.digits.offload=hard+audit", EXAMPLE__TASKS__SPEECH__OFFLOAD="never")
    assert settings.tasks["digits"].offload == "hard+audit"
    assert settings.tasks["digits"].labels == ("a", "b")
    assert settings.tasks["speech"].offload == "never"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("true", True), ("false", False)],
)
def test_override_is_read_as_toml(tmp_path, text, expected):
    assert load(tmp_path, FILE, f"verbose={text}").verbose is expected


@pytest.mark.parametrize("override", ["site=10.0.0.1", "site = 10.0.0.1 ", 'site="10.0.0.1"'])
def test_override_that_is_no_toml_is_text(tmp_path, override):
    assert load(tmp_path, FILE, override).site == "10.0.0.1"


def test_override_may_hold_an_equals_sign_and_a_list(tmp_path):
    settings = load(tmp_path, FILE, "site=a=b", 'tasks.digits.labels=["x"]')
    assert (settings.site, settings.tasks["digits"].labels) == ("a=b", ("x",))


def test_settings_need_no_file():
    assert Example.load(None, overrides=["site=x"], environ={}).broker.port == 1883


def test_process_environment_is_the_default(monkeypatch):
    monkeypatch.setenv("EXAMPLE__SITE", "process")
    assert Example.load(None).site == "process"


def test_constructing_reads_no_environment(monkeypatch):
    monkeypatch.setenv("EXAMPLE__SITE", "process")
    assert Example(site="given").site == "given"


def test_foreign_environment_is_left_alone(tmp_path):
    assert load(tmp_path, FILE, PATH="/bin", EXAMPLE_SITE="other", OTHER__SITE="x").site == "file"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('site = "x"\nverbos = true', "unknown key 'verbos'; did you mean 'verbose'?"),
        ('site = "x"\n[brocker]\nhost = "x"', "unknown key 'brocker'; did you mean 'broker'?"),
        ('site = "x"\n[broker]\nhots = "x"', "unknown key 'broker.hots'; did you mean 'host'?"),
        ('site = "x"\n[fallback]\nprt = 2', "unknown key 'fallback.prt'; did you mean 'port'?"),
        ('site = "x"\n[tasks.digits]\nofload = "x"', "unknown key 'tasks.digits.ofload'; did you mean 'offload'?"),
        ('site = "x"\nzzz = 1', "unknown key 'zzz'; known here: broker, fallback, site, tasks, verbose"),
        (
            'site = "x"\n[[tasks.d.sources]]\nkind = "replay"\npath = "x"\nrate = 2',
            "unknown key 'tasks.d.sources.0.rate'; did you mean 'rate_hz'?",
        ),
    ],
)
def test_unknown_key_in_the_file_names_the_nearest(tmp_path, text, said):
    message = refused(tmp_path, text)
    assert said in message
    assert str(tmp_path / "example.toml") in message


def test_unknown_key_in_the_environment_names_the_nearest(tmp_path):
    assert "EXAMPLE__BROKR__HOST: unknown key 'brokr'; did you mean 'broker'?" in refused(
        tmp_path, FILE, EXAMPLE__BROKR__HOST="x"
    )
    assert "unknown key 'broker.hots'; did you mean 'host'?" in refused(tmp_path, FILE, EXAMPLE__BROKER__HOTS="x")


def test_unknown_key_in_an_override_names_the_nearest(tmp_path):
    assert "unknown key 'broker.prot'; did you mean 'port'?" in refused(tmp_path, FILE, "broker.prot=3")


@pytest.mark.parametrize("override", ["broker", "=3", " =3", ""])
def test_override_of_another_form_is_refused(tmp_path, override):
    assert "is not of the form path.to.key=value" in refused(tmp_path, FILE, override)


def test_missing_key_is_named(tmp_path):
    assert "missing key 'site'" in refused(tmp_path, "")
    assert "missing key 'tasks.d.sources.0.path'" in refused(tmp_path, 'site="x"\n[[tasks.d.sources]]\nkind="replay"')


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("broker.port=0", "broker.port: Input should be greater than or equal to 1"),
        ("broker.port=many", "broker.port: Input should be a valid integer"),
        ("broker=3", "broker: Input should be a valid dictionary"),
        ("site=3", "site: Input should be a valid string"),
    ],
)
def test_impossible_value_is_named(tmp_path, override, said):
    assert said in refused(tmp_path, FILE, override)


def test_every_problem_is_said_at_once(tmp_path):
    message = refused(tmp_path, 'nonsense = 1\n[broker]\nport = "x"')
    assert all(each in message for each in ("nonsense", "broker.port", "missing key 'site'"))


def test_table_in_the_environment_that_is_no_json_is_refused(tmp_path):
    assert "a whole table is written as JSON" in refused(tmp_path, FILE, EXAMPLE__BROKER="{host")
    assert load(tmp_path, FILE, EXAMPLE__BROKER='{"port": 7}').broker == Broker(host="file", port=7)


def test_error_in_the_environment_names_the_variable(tmp_path):
    assert "environment variable EXAMPLE__BROKER: " in refused(tmp_path, FILE, EXAMPLE__BROKER="{host")
    said = refused(tmp_path, FILE, EXAMPLE__TASKS__DIGITS__LABELS="a, b")
    assert "environment variable EXAMPLE__TASKS__DIGITS__LABELS: " in said
    assert "JSON" in said


def test_lists_and_tables_in_the_environment_are_json_and_anything_else_is_text(tmp_path):
    settings = load(
        tmp_path,
        FILE,
        EXAMPLE__SITE='["no", "list"]',
        EXAMPLE__VERBOSE="true",
        EXAMPLE__BROKER__PORT="7",
        EXAMPLE__FALLBACK='{"host": "json"}',
        EXAMPLE__TASKS__DIGITS__LABELS='["x"]',
        EXAMPLE__TASKS__DIGITS__SOURCES='[{"kind": "directory", "path": "y"}]',
    )
    assert settings.site == '["no", "list"]'
    assert (settings.verbose, settings.broker.port) == (True, 7)
    assert settings.fallback == Broker(host="json")
    assert settings.tasks["digits"].labels == ("x",)
    assert settings.tasks["digits"].sources == (Source(kind="directory", path=Path("y")),)


def test_table_that_may_be_left_out_is_left_out_by_null(tmp_path):
    settings = load(tmp_path, FILE + "[fallback]\n", EXAMPLE__FALLBACK="null")
    assert settings.fallback is None


def test_key_in_the_environment_lies_over_its_table_there(tmp_path):
    environ = {"EXAMPLE__BROKER__PORT": "8", "EXAMPLE__BROKER": '{"host": "json", "port": 7}'}
    assert load(tmp_path, FILE, **environ).broker == Broker(host="json", port=8)
    assert load(tmp_path, FILE, **dict(reversed(environ.items()))).broker == Broker(host="json", port=8)


def test_environment_is_read_in_any_case(tmp_path):
    assert load(tmp_path, FILE, example__Broker__HOST="Any").broker.host == "Any"


def test_key_below_something_that_is_no_table_is_refused(tmp_path):
    assert "verbose: Input should be a valid boolean" in refused(tmp_path, FILE, EXAMPLE__VERBOSE__X="1")
    assert "broker.host: Input should be a valid string" in refused(tmp_path, FILE, EXAMPLE__BROKER__HOST__X="1")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"cannot read the settings file .*none\.toml: No such file"):
        Example.load(tmp_path / "none.toml", environ={})


@pytest.mark.parametrize("data", [b"site = ", b"\xff\xfe", b"[a]\n[a]"])
def test_file_that_is_no_toml_is_named_with_the_place(tmp_path, data):
    path = tmp_path / "bad.toml"
    path.write_bytes(data)
    with pytest.raises(SettingsError, match=r"bad\.toml is not valid TOML"):
        Example.load(path, environ={})


def test_settings_cannot_be_changed(tmp_path):
    settings = load(tmp_path, FILE)
    for model, name in ((settings, "site"), (settings.broker, "host")):
        with pytest.raises(ValidationError):
            setattr(model, name, "other")
