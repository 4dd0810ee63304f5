"""docs/sources.md: what it shows loads, and it shows every kind."""

import inspect
import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from edge_agent.settings import AgentSettings
from edge_agent.sources.settings import MicrophoneSettings, MqttSettings, SourceSettings, reads_stdin
from shared.mqtt import BrokerSettings

PAGE = (Path(__file__).resolve().parents[4] / "docs" / "sources.md").read_text(encoding="utf-8")
HEAD, *EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
KINDS = get_args(get_args(SourceSettings)[0])


def kind_of(model):
    return get_args(model.model_fields["kind"].annotation)[0]


@pytest.fixture
def load(tmp_path):
    def read(sources):
        (task,) = set(re.findall(r"\[\[tasks\.(\w+)\.", sources))
        file = tmp_path / "agent.toml"
        file.write_text(f'site = "s"\ndevice = "d"\nstate_dir = "state"\n[tasks.{task}]\nbundle = "b"\n{sources}')
        return AgentSettings.read(file).tasks[task].sources

    return read


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example_loads(load, number):
    (source,) = load(EXAMPLES[number])
    assert f"### {source.kind}: " in PAGE


def test_first_example_is_a_whole_file(tmp_path):
    (tmp_path / "agent.toml").write_text(HEAD)
    sources = AgentSettings.read(tmp_path / "agent.toml").tasks["parts"].sources
    assert [source.kind for source in sources] == ["camera", "directory"]
    assert sources[1].training_use is False


def test_page_has_an_example_and_a_row_for_every_kind():
    for kind in map(kind_of, KINDS):
        assert f'kind = "{kind}"' in PAGE
        assert re.search(rf"^\| `{kind}` \|", PAGE, re.MULTILINE), kind


@pytest.mark.parametrize("model", KINDS, ids=kind_of)
def test_every_kind_says_what_it_does_when_the_agent_is_slow(model):
    assert "Slow agent: " in inspect.getdoc(model).split("\n")[0]


@pytest.mark.parametrize("model", KINDS, ids=kind_of)
def test_page_and_code_agree_about_the_default(model):
    row = re.search(rf"^\| `{kind_of(model)}` \| ([^|]*) \|", PAGE, re.MULTILINE).group(1)
    drops = "when_slow" in model.model_fields and model.model_fields["when_slow"].default == "drop_oldest"
    assert ("dropped" in row) == drops


def test_paths_are_below_the_files_folder_and_standard_input_stays(load, tmp_path):
    one = '[[tasks.t.sources]]\nkind = "directory"\npath = "in"\n'
    two = '[[tasks.t.sources]]\nkind = "readings"\npath = "-"\nfields = ["a"]\nlength = 1\n'
    directory, readings = load(one + two)
    assert directory.path == tmp_path / "in"
    assert [reads_stdin(source) for source in (directory, readings)] == [False, True]


def test_a_sources_own_broker_may_have_files(load, tmp_path):
    broker = 'broker = { host = "h", ca_file = "ca.pem" }'
    (source,) = load(f'[[tasks.t.sources]]\nkind = "mqtt"\ntopic = "t"\npayload = "raw"\n{broker}\n')
    assert source.broker == BrokerSettings(host="h", ca_file=tmp_path / "ca.pem")


@pytest.mark.parametrize(
    ("model", "values"),
    [(MicrophoneSettings, {"kind": "microphone"}), (MqttSettings, {"kind": "mqtt", "topic": "t", "payload": "raw"})],
)
def test_what_cannot_wait_cannot_be_told_to(model, values):
    with pytest.raises(ValidationError, match='only "drop_oldest" is possible'):
        model(when_slow="block", **values)
