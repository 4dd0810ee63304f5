"""The README keeps its promises: the file map is complete and short, its settings load, its code compiles."""

import ast
import re
from pathlib import Path

import pytest

from edge_agent.settings import AgentSettings

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PACKAGES = ("shared", "edge_agent", "cloud_service")
MAP = re.search(r"<!-- file-map -->\n```\n(.*?)```", README, re.DOTALL).group(1)


def mapped():
    """File → its words."""
    package, files = "", {}
    for line in MAP.splitlines():
        name, _, words = line.strip().partition("  ")
        if not line.startswith(" "):
            package = name
        files[package + name if line.startswith(" ") else name] = words.strip()
    return files


def test_every_module_is_on_the_file_map():
    modules = {
        file.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
        if not file.name.startswith("__") and "migrations" not in file.parts
    }
    named = {name for name in mapped() if name.endswith(".py")}
    assert named == modules


def test_no_file_on_the_map_takes_more_than_eight_words():
    assert [f"{name}: {words}" for name, words in mapped().items() if not 0 < len(words.split()) <= 8] == []


@pytest.mark.parametrize("number", range(len(re.findall(r"```python\n", README))))
def test_python_of_the_readme_compiles(number):
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[number]
    assert ast.parse(code).body


def test_agent_settings_of_the_readme_load(tmp_path):
    (toml,) = [text for text in re.findall(r"```toml\n(.*?)```", README, re.DOTALL) if "# agent.toml" in text]
    file = tmp_path / "agent.toml"
    file.write_text(toml, encoding="utf-8")
    settings = AgentSettings.load(file, environ={})
    assert settings.tasks["digits"].sources[0].kind == "directory"


def test_links_of_the_readme_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not target.startswith("https://") and not (ROOT / target).exists()] == []
