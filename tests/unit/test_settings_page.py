"""docs/settings.md is what the code says, and every setting has words."""

from collections import Counter

from cloud_service.settings import CloudSettings
from edge_agent.settings import AgentSettings
from scripts import make_settings_docs


def test_settings_page_is_up_to_date():
    assert make_settings_docs.TARGET.read_text(encoding="utf-8") == make_settings_docs.page()


def test_headings_can_be_told_apart():
    headings = [line for line in make_settings_docs.page().splitlines() if line.startswith("#")]
    assert len(headings) > 40
    assert [line for line, count in Counter(headings).items() if count > 1] == []


def test_every_setting_has_words():
    silent = [
        f"{root.__name__} [{path}] {name}"
        for root in (AgentSettings, CloudSettings)
        for path, _, model in make_settings_docs.tables(root, "")
        for name, field in model.model_fields.items()
        if not make_settings_docs.models_in(field.annotation) and not make_settings_docs.words(model).get(name)
    ]
    assert silent == []
