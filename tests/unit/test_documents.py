"""The documents keep what they promise: links lead somewhere, decisions are listed, the update table is the code's."""

import re
from pathlib import Path

import pytest

from edge_agent.updates.lifecycle import RESUME, TABLE, State

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "CONTRIBUTING.md",
    DOCS / "architecture.md",
    DOCS / "protocol.md",
    DOCS / "outcomes.md",
    DOCS / "local-server.md",
    DOCS / "simulate.md",
    *sorted((DOCS / "adr").glob("*.md")),
]
DECISIONS = sorted((DOCS / "adr").glob("[0-9]*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.name[:4])
def test_decision_has_its_four_parts_and_is_listed(page):
    text = page.read_text(encoding="utf-8")
    assert re.match(rf"# {page.name[:4]} \S", text)
    for part in ("**Context.**", "**Options", "**Outcome.**", "**Cost.**"):
        assert part in text
    assert f"]({page.name})" in (DOCS / "adr" / "README.md").read_text(encoding="utf-8")


def test_decisions_are_numbered_without_gaps():
    assert [int(page.name[:4]) for page in DECISIONS] == list(range(1, len(DECISIONS) + 1))


def test_update_table_in_the_architecture_is_the_codes():
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    section = text.split("## Updates on the device")[1].split("\n## ")[0]
    transitions, resumed = {}, {}
    for state, follows, after in re.findall(r"^\| `(\w+)`[^|]*\|([^|]*)\| `(\w+)`", section, re.MULTILINE):
        resumed[state] = after
        for event, target in re.findall(r"(\w+) → `(\w+)`", follows):
            transitions[state, event] = target
    assert transitions == {(state.value, event.value): target.value for (state, event), target in TABLE.items()}
    assert resumed == {state.value: after.value for state, after in RESUME.items()}
    assert set(resumed) == {state.value for state in State}


def test_make_targets_that_people_are_told_to_type_exist():
    contributing, makefile = ((ROOT / name).read_text(encoding="utf-8") for name in ("CONTRIBUTING.md", "Makefile"))
    told = set(re.findall(r"(?:^|`)make ([a-z]+)\b", contributing, re.MULTILINE))
    made = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert {"test", "check", "demo", "lab", "help"} <= told <= made
