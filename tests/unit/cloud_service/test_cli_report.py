import json

import pytest
from typer.testing import CliRunner

from cloud_service.cli import app
from cloud_service.cli_report import opening, read_report, refused, tables
from shared.bundle import sha256_file
from shared.errors import SettingsError

NUMBERS = {
    "base_accuracy": 0.9,
    "field_agreement": None,
    "calibration_error": 0.0123,
    "offload_rate": 0.1,
    "model_bytes": 7000,
}
REPORT = {
    "version": "rows-2",
    "passed": False,
    "reasons": ["model.onnx has 7000 bytes; 100 are allowed"],
    "before": NUMBERS | {"base_accuracy": 0.8},
    "after": NUMBERS,
    "latency": {"ratio": 0.5, "low": 0.45, "high": 0.55},
    "memory_bytes": 11_000_000,
    "calibration": {
        "temperature": 1.5,
        "calibration_error": 0.01,
        "uncalibrated_error": 0.08,
        "score": "max_probability",
        "deferral_reason": "not fitted: 8 different uploads",
        "notes": ["8 uploads are too few to calibrate on"],
        "rankings": {"margin": {"auroc": 0.91, "aurc": 0.02}, "energy": {"auroc": None, "aurc": 0.0}},
        "budgets": [{"budget": 0.1, "threshold": 0.25, "offload_rate": 0.099, "agreement": 0.97}],
    },
    "classes": [
        {"label": "a", "samples": 10, "incumbent": 0.9, "candidate": 0.9},
        {"label": "b", "samples": 10, "incumbent": 0.9, "candidate": 0.5},
        {"label": "c", "samples": 0, "incumbent": None, "candidate": 0.0},
    ],
    "profiles": {"cam": ["model.onnx has 7,000 bytes of 100"], "hub": []},
    "variants": [
        {"version": "rows-2-half", "passed": True, "reasons": []},
        {"version": "rows-2-fp16", "passed": False, "reasons": ["too large"]},
    ],
}
PASSED_OF_OLD = {"version": "rows-1", "passed": True, "reasons": [], "before": None, "after": NUMBERS}


def table(report, title):
    return {row[0]: row[1:] for name, _, rows in tables(report) if name.startswith(title) for row in rows}


def test_bundle_that_its_gate_refused_is_known_in_its_folder(tmp_path):
    for name in ("candidate.bundle", "candidate.half.bundle"):
        (tmp_path / name).write_bytes(name.encode())
    digests = {name: sha256_file(tmp_path / name) for name in ("candidate.bundle", "candidate.half.bundle")}
    half = {"passed": True, "reasons": [], "bundle": "candidate.half.bundle", "version": "rows-2-half"}
    half["bundle_sha256"] = digests["candidate.half.bundle"]
    report = {"passed": False, "reasons": ["it is worse"], "bundle_sha256": digests["candidate.bundle"]}
    (tmp_path / "report.json").write_text(json.dumps(report | {"variants": [half]}))
    assert refused(tmp_path / "candidate.bundle") == ["it is worse"]
    assert refused(tmp_path / "candidate.half.bundle") == []
    (tmp_path / "candidate.bundle").write_bytes(b"another")
    assert refused(tmp_path / "candidate.bundle") == []
    assert refused(tmp_path / "elsewhere" / "candidate.bundle") == []


def test_further_variants_are_told_with_what_they_cost():
    half = REPORT["variants"][0] | {"after": NUMBERS, "macs_left": 0.48, "latency_ratio": 0.7}
    (row,) = table(REPORT | {"variants": [half]}, "further").items()
    assert row == ("rows-2-half", ("7,000", "48.0%", "90.0%", "", "0.70 ×", "passed"))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"error.json": '{"message": "the data is bad"}'}, "the run failed: the data is bad"),
        ({"distill.saved.pt": ""}, "not finished"),
        ({"distill.json": "{}", "error.json": "cut"}, "not finished"),
        ({"teach.json": "{}"}, "only a teacher"),
        ({}, "name a folder"),
    ],
)
def test_folder_without_a_report_says_why(tmp_path, files, said):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(SettingsError, match=said):
        read_report(tmp_path)
    with pytest.raises(SettingsError, match="no such folder"):
        read_report(tmp_path / "absent")


def test_way_to_int8_is_said_with_what_it_changed():
    how = {"method": "minmax", "float_layers": ["conv_0", "conv_3"]}
    half = {"how": how | {"method": "qat", "float_layers": []}, "chosen_by": {"share": -0.002}, "field": None}
    older = REPORT["variants"][1] | {"quantized": half | {"chosen_by": None}}
    variants = [REPORT["variants"][0] | {"quantized": half}, older]
    quantized = {"how": how, "chosen_by": {"share": 0.0123}, "field": {"share": 0.02}}
    lines = opening(REPORT | {"quantized": quantized, "variants": variants})
    assert [line for line in lines if line.startswith("int8")] == [
        "int8: rows-2 by minmax, 2 layers in float: -1.2% right answers, -2.0% on field samples",
        "int8: rows-2-half by qat: +0.2% right answers",
    ]


def test_candidate_that_failed_is_said_to_be_kept_with_every_reason():
    lines = opening(REPORT)
    assert lines[:2] == [
        "gate: rows-2 did not pass, it is kept and not shipped",
        "  model.onnx has 7000 bytes; 100 are allowed",
    ]
    assert "gate: rows-2-half passed" in lines
    assert "gate: rows-2-fp16 did not pass: too large" in lines


def test_notes_and_the_choice_of_the_score_are_said():
    text = "\n".join(opening(REPORT))
    assert "note: 8 uploads are too few to calibrate on" in text
    assert "calibration error 0.0800 without it, 0.0100 with it" in text
    assert "score max_probability; the learned one: not fitted: 8 different uploads" in text


def test_both_models_stand_side_by_side():
    found = table(REPORT, "both models")
    assert found["right on held-out base samples"] == ("80.0%", "90.0%")
    assert found["as the teacher on field samples"] == ("", "")
    assert found["bytes of model.onnx"] == ("7,000", "7,000")
    assert found["latency"] == ("1.00 ×", "0.50 × (0.45 to 0.55)")
    assert found["bytes of a session"] == ("", "11,000,000")


def test_scores_budgets_and_profiles_have_their_tables():
    assert table(REPORT, "scores") == {"margin": ("0.9100", "0.0200"), "energy": ("", "0.0000")}
    assert table(REPORT, "what each budget") == {"10.0%": ("0.250000", "9.9%", "97.0%")}
    assert table(REPORT, "device profiles") == {"cam": ("model.onnx has 7,000 bytes of 100",), "hub": ("fits",)}


def test_classes_that_fell_furthest_come_first():
    found = table(REPORT, "classes")
    assert list(found) == ["c", "b", "a"]
    assert found["b"] == ("10", "90.0%", "50.0%")
    assert found["c"] == ("0", "", "")


def test_report_of_an_older_release_is_shown_as_far_as_it_goes():
    assert opening(PASSED_OF_OLD) == ["gate: rows-1 passed"]
    assert [title for title, _, rows in tables(PASSED_OF_OLD) if rows] == ["both models"]
    assert table(PASSED_OF_OLD, "both models")["right on held-out base samples"] == ("", "90.0%")


def test_command_shows_a_folder_and_prints_json(tmp_path):
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    shown = CliRunner().invoke(app, ["distill", "report", str(tmp_path)])
    assert shown.exit_code == 0
    assert "it is kept and not shipped" in shown.stdout
    assert "what each budget would bring" in shown.stdout
    whole = CliRunner().invoke(app, ["distill", "report", str(tmp_path / "report.json"), "--json"])
    assert json.loads(whole.stdout) == REPORT


@pytest.mark.parametrize("content", [None, "{"])
def test_folder_without_a_report_names_the_remedy(tmp_path, content):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(SettingsError, match=r"report\.json is no report of a training run: name a folder"):
        read_report(tmp_path)
