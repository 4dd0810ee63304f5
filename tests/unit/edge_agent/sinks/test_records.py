import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.outcomes import Correction, Outcome
from edge_agent.sinks.records import Filter, to_json
from edge_agent.sinks.settings import Only
from shared.messages import Action, Reason
from tests.sim.outcomes import correction, hard, outcome

ORIGIN = {"site": "home", "device": "cam-1"}


def test_record_says_its_kind_where_it_comes_from_and_everything_else():
    first, second = outcome(reference="a.png"), correction()
    got = [json.loads(to_json(record, origin=ORIGIN)) for record in (first, second)]
    assert set(got[0]) == {"kind", *ORIGIN, *Outcome.__dataclass_fields__}
    assert set(got[1]) == {"kind", *ORIGIN, *Correction.__dataclass_fields__}
    assert (got[0]["kind"], got[0]["site"], got[0]["action"], got[0]["reference"]) == (
        "outcome",
        "home",
        "keep",
        "a.png",
    )
    assert (got[1]["kind"], got[1]["sample_id"], got[1]["agreed"]) == ("correction", str(second.sample_id), False)


@given(st.floats(), st.text())
def test_record_is_one_line_of_json_whatever_is_in_it(number, text):
    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    line = to_json(outcome(hardness=number, label=text, reference=text))
    got = json.loads(line, parse_constant=refuse)
    assert "\n" not in line
    assert got["label"] == text
    assert got["hardness"] == (number if math.isfinite(number) else None)


def told(only, *records):
    chosen = Filter(only)
    return [record for record in records if chosen.takes(record)]


def test_filter_lets_all_through():
    records = (outcome(), outcome(), correction(agreed=True))
    assert told(Only.ALL, *records) == list(records)


@pytest.mark.parametrize("reason", list(Reason))
def test_filter_lets_through_what_the_model_was_not_sure_of(reason):
    record = outcome(reason=reason, action=Action.KEEP)
    assert told(Only.HARD, record) == ([] if reason in (Reason.CONFIDENT, Reason.AUDIT) else [record])


def test_filter_of_hard_ones_lets_corrections_through():
    records = (correction(agreed=True), correction())
    assert told(Only.HARD, *records) == list(records)


def test_filter_lets_another_label_of_the_same_task_through():
    first, same, other, back = outcome(), outcome(), outcome(label="8"), outcome()
    elsewhere = outcome(task="sounds")
    agreed, corrected = correction(agreed=True), correction(agreed=False)
    records = (first, same, elsewhere, other, agreed, corrected, back)
    assert told(Only.CHANGED, *records) == [first, elsewhere, other, corrected, back]


def test_filter_of_changes_knows_nothing_of_hardness():
    assert len(told(Only.CHANGED, hard(), hard())) == 1
