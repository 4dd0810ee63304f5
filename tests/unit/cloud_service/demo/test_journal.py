"""The journal: what the devices' outcome files say, read while they grow."""

import json
from pathlib import Path

from cloud_service.demo.journal import DeviceJournal
from cloud_service.demo.stage import STREAM_REFERENCE, Device


def device(folder: Path) -> Device:
    return Device("device-1", folder / "agent.toml", folder / "outcomes.jsonl", exam_size=2, stream_size=2)


def outcome(number: int, *, reference: int, prediction: int = 1, offload: bool = False, version: str = "v1") -> str:
    record = {
        "kind": "outcome",
        "sample_id": f"id-{number}",
        "seq": 100 + number,
        "reference": reference,
        "edge_prediction": prediction,
        "action": "offload" if offload else "keep",
        "reason": "hard" if offload else "confident",
        "bundle_version": version,
        "infer_us": 20.0,
        "total_us": 50.0,
    }
    return json.dumps(record) + "\n"


def correction(number: int, *, prediction: int, agreed: bool) -> str:
    record = {"kind": "correction", "sample_id": f"id-{number}", "prediction": prediction, "agreed": agreed}
    return json.dumps(record) + "\n"


def test_journal_reads_what_is_new_and_leaves_a_half_written_line(tmp_path: Path) -> None:
    journal = DeviceJournal(device(tmp_path))
    journal.read(0.0)
    assert journal.answers == []
    whole, half = outcome(1, reference=0), outcome(2, reference=1)
    journal.device.outcomes.write_text(whole + half[:40])
    journal.read(1.0)
    assert [answer.sample_id for answer in journal.answers] == ["id-1"]
    journal.device.outcomes.write_text(whole + half)
    journal.read(2.5)
    assert [(answer.sample_id, answer.at_s) for answer in journal.answers] == [("id-1", 1.0), ("id-2", 2.5)]


def test_verdict_becomes_the_final_answer_of_its_sample_alone(tmp_path: Path) -> None:
    journal = DeviceJournal(device(tmp_path))
    journal.device.outcomes.write_text(
        outcome(1, reference=0, prediction=3, offload=True)
        + outcome(2, reference=1, prediction=4, offload=True)
        + correction(1, prediction=7, agreed=False)
        + correction(99, prediction=0, agreed=True)
    )
    journal.read(0.0)
    assert [answer.final for answer in journal.answers] == [7, 4]
    assert journal.unanswered() == 1
    assert journal.agreement == 0.0
    assert journal.offload_rate == 1.0


def test_gap_in_the_devices_count_is_a_missing_answer(tmp_path: Path) -> None:
    journal = DeviceJournal(device(tmp_path))
    assert journal.missing() == 0
    journal.device.outcomes.write_text(outcome(1, reference=0) + outcome(2, reference=1) + outcome(5, reference=0))
    journal.read(0.0)
    assert journal.missing() == 2


def test_sample_that_the_spool_took_no_more_is_dropped_and_not_offloaded(tmp_path: Path) -> None:
    journal = DeviceJournal(device(tmp_path))
    journal.device.outcomes.write_text(outcome(1, reference=0).replace('"keep"', '"drop"'))
    journal.read(0.0)
    assert [(answer.dropped, answer.offloaded) for answer in journal.answers] == [(True, False)]


def test_first_answer_of_a_model_to_each_test_image_counts(tmp_path: Path) -> None:
    journal = DeviceJournal(device(tmp_path))
    journal.device.outcomes.write_text(
        outcome(1, reference=0, prediction=1)
        + outcome(2, reference=STREAM_REFERENCE, prediction=2)
        + outcome(3, reference=0, prediction=3)
        + outcome(4, reference=0, prediction=4, version="v2")
    )
    journal.read(0.0)
    assert {ref: answer.prediction for ref, answer in journal.exam_answers("v1").items()} == {0: 1}
    assert {ref: answer.prediction for ref, answer in journal.exam_answers("v2").items()} == {0: 4}
    assert journal.stream_seen == 1
    assert journal.version == "v2"


def test_closed_journal_ends_where_it_was_told_and_knows_what_still_waits(tmp_path: Path) -> None:
    journal = DeviceJournal(device(tmp_path))
    journal.device.outcomes.write_text(
        outcome(1, reference=0, offload=True)
        + outcome(2, reference=1, offload=True)
        + correction(1, prediction=1, agreed=True)
    )
    journal.read(0.0)
    assert not journal.waiting_before(1)
    assert journal.waiting_before(2)
    journal.close(1)
    assert [answer.sample_id for answer in journal.answers] == ["id-1"]
    assert journal.unanswered() == 0
