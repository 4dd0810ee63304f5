import json
import os

import pytest

from edge_agent.outcomes import AnsweredBy, Correction, Outcome
from edge_agent.sinks.callback import CallbackSink
from edge_agent.sinks.fan_out import Sinks
from edge_agent.sinks.json_lines import JsonLinesSink
from edge_agent.sinks.settings import OutcomeSettings
from shared.ids import new_id
from shared.messages import Action, Reason
from tests.sim.disk import fill, small_disk


def outcome(seq=1, label="3"):
    return Outcome(
        sample_id=new_id(),
        task="digits",
        seq=seq,
        label=label,
        prediction=3,
        confidence=0.75,
        answered_by=AnsweredBy.EDGE,
        edge_prediction=3,
        hardness=0.25,
        action=Action.KEEP,
        reason=Reason.CONFIDENT,
        bundle_version="v1",
        reference="a.npy",
        infer_us=10.0,
        total_us=20.0,
    )


def correction(seq=1):
    return Correction(
        sample_id=new_id(),
        task="digits",
        seq=seq,
        label="4",
        prediction=4,
        confidence=1.0,
        agreed=False,
        bundle_version="v1",
        teacher="t",
        reference=None,
    )


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_json_lines_hold_every_field(tmp_path):
    path = tmp_path / "new" / "out.jsonl"
    sink = JsonLinesSink(OutcomeSettings(path=path))
    first, second = outcome(), correction()
    sink.outcome(first)
    sink.correction(second)
    sink.close()
    got = lines(path)
    assert [each["kind"] for each in got] == ["outcome", "correction"]
    assert got[0]["sample_id"] == str(first.sample_id)
    assert (got[0]["action"], got[0]["answered_by"], got[0]["reference"]) == ("keep", "edge", "a.npy")
    assert set(got[0]) == {"kind", *Outcome.__dataclass_fields__}
    assert set(got[1]) == {"kind", *Correction.__dataclass_fields__}


def test_json_lines_append_after_a_restart(tmp_path):
    for seq in (1, 2):
        sink = JsonLinesSink(OutcomeSettings(path=tmp_path / "o"))
        sink.outcome(outcome(seq))
        sink.close()
    assert [each["seq"] for each in lines(tmp_path / "o")] == [1, 2]


def test_json_lines_move_aside_when_large(tmp_path):
    sink = JsonLinesSink(OutcomeSettings(path=tmp_path / "o", max_bytes=65_536))
    for seq in range(400):
        sink.outcome(outcome(seq))
    sink.close()
    newer, older = lines(tmp_path / "o"), lines(tmp_path / "o.1")
    assert [each["seq"] for each in older + newer][-1] == 399
    assert (tmp_path / "o.1").stat().st_size < 67_000
    seqs = [each["seq"] for each in older + newer]
    assert seqs == list(range(seqs[0], 400))


def test_json_lines_on_a_full_disk_cost_records_only_and_every_line_stays_whole(tmp_path, caplog):
    caplog.set_level("INFO")
    with small_disk(tmp_path / "disk", kilobytes=64) as disk:
        sink = JsonLinesSink(OutcomeSettings(path=disk / "o"))
        ballast = fill(disk, leave=8192)
        for seq in range(100):
            sink.outcome(outcome(seq))
        assert caplog.text.count("free some space; inference goes on") == 1
        ballast.unlink()
        sink.outcome(outcome(1000))
        sink.close()
        assert caplog.text.count("are written to") == 1
        seqs = [each["seq"] for each in lines(disk / "o")]
    assert 5 < len(seqs) < 100
    assert seqs[:-1] == list(range(len(seqs) - 1))
    assert seqs[-1] == 1000


def test_json_lines_to_standard_output(capfd):
    sink = JsonLinesSink(OutcomeSettings(path="-"))
    sink.outcome(outcome(7))
    sink.close()
    os.write(1, b"")
    assert json.loads(capfd.readouterr().out)["seq"] == 7


def test_json_lines_after_close_write_nowhere(tmp_path):
    sink = JsonLinesSink(OutcomeSettings(path=tmp_path / "o"))
    sink.close()
    other = os.open(tmp_path / "innocent", os.O_WRONLY | os.O_CREAT)
    sink.outcome(outcome())
    sink.close()
    os.close(other)
    assert (tmp_path / "innocent").read_bytes() == b""


def test_json_lines_sink_without_a_path_is_a_mistake():
    with pytest.raises(ValueError, match="path"):
        JsonLinesSink(OutcomeSettings())


def test_callback_gets_each_record():
    got = []
    sink = CallbackSink(got.append, got.append)
    first, second = outcome(), correction()
    sink.outcome(first)
    sink.correction(second)
    sink.close()
    assert got == [first, second]


def test_callback_that_is_missing_is_fine():
    sink = CallbackSink(None, None)
    sink.outcome(outcome())
    assert sink.correction(correction()) is None


def test_callback_that_raises_is_logged_once_a_kind(caplog):
    def fail(record):
        raise (KeyError if record.seq % 2 else ZeroDivisionError)("mine")

    sink = CallbackSink(fail, None)
    for seq in range(6):
        sink.outcome(outcome(seq))
    assert caplog.text.count("the program's callback raised") == 2


def test_sinks_tell_all():
    one, two = [], []
    sinks = Sinks((CallbackSink(one.append, one.append), CallbackSink(two.append, two.append)))
    first, second = outcome(), correction()
    sinks.outcome(first)
    sinks.correction(second)
    sinks.close()
    assert one == two == [first, second]


def test_json_lines_go_on_after_a_move_that_no_new_file_followed(tmp_path):
    sink = JsonLinesSink(OutcomeSettings(path=tmp_path / "o", max_bytes=65_536))
    while (tmp_path / "o").stat().st_size < 65_536:
        sink.outcome(outcome())
    (tmp_path / "o").rename(tmp_path / "o.1")  # what a full disk leaves: moved, and no room for a new one
    sink.outcome(outcome(1000))
    sink.close()
    assert [each["seq"] for each in lines(tmp_path / "o")] == [1000]
