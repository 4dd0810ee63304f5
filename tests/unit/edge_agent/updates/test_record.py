import json

import pytest

from edge_agent.updates import record
from edge_agent.updates.lifecycle import State
from edge_agent.updates.record import Record, Records
from shared.ids import new_id
from shared.messages import BundleReference, UpdateFailure


def make(state=State.STAGING, *, digest="a", revision=3, **more):
    return Record(
        state=state,
        reference=BundleReference(version="v2", url="http://x/b", sha256=digest * 64, size_bytes=10),
        revision=revision,
        report_id=new_id(),
        from_version="v1",
        **more,
    )


def test_record_survives(tmp_path):
    saved = make(starts=2, failure=UpdateFailure.SELF_TEST, message="why")
    Records(tmp_path / "t").save(saved)
    assert Records(tmp_path / "t").load() == saved


def test_record_at_rest_is_nothing_to_resume(tmp_path):
    Records(tmp_path).save(make(State.IDLE))
    assert Records(tmp_path).load() is None


def test_record_absent_is_nothing_to_resume(tmp_path):
    assert Records(tmp_path).load() is None


def test_record_of_another_release_is_read_with_its_unknown_state_and_fields(tmp_path):
    Records(tmp_path).save(make())
    file = tmp_path / "update.json"
    value = {**json.loads(file.read_text()), "state": "probation", "windows": 3}
    file.write_text(json.dumps(value))
    assert Records(tmp_path).load().state == "probation"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"state": "staging"}'])
def test_record_that_cannot_be_read_is_said_and_dropped(tmp_path, caplog, text):
    (tmp_path / "update.json").write_text(text)
    assert Records(tmp_path).load() is None
    assert "the active model stays" in caplog.text


def test_failed_bundle_is_remembered_until_the_wish_is_renewed(tmp_path):
    failed = make(revision=3)
    Records(tmp_path).note_failed(failed)
    again = Records(tmp_path)
    assert again.has_failed(failed.reference, 3)
    assert again.has_failed(failed.reference, 2)
    assert not again.has_failed(failed.reference, 4)
    assert not again.has_failed(make(digest="b").reference, 3)


def test_failed_bundles_are_limited_to_the_newest(tmp_path):
    records = Records(tmp_path)
    made = []
    for number in range(record.MAX_FAILED + 1):
        one = make()
        reference = one.reference.model_copy(update={"sha256": f"{number:064x}"})
        made.append(one.model_copy(update={"reference": reference}))
        records.note_failed(made[-1])
    assert not records.has_failed(made[0].reference, 3)
    assert all(records.has_failed(each.reference, 3) for each in made[1:])


@pytest.mark.parametrize("text", ["", "[]", "{", '{"x": "y"}', "3"])
def test_failed_file_that_cannot_be_read_does_not_stop_updates(tmp_path, text):
    (tmp_path / "failed.json").write_text(text)
    records = Records(tmp_path)
    assert not records.has_failed(make().reference, 3)
    records.note_failed(make())
    assert records.has_failed(make().reference, 3)
