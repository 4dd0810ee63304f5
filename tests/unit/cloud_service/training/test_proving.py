import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from cloud_service.tasks.profiles import DeviceProfile
from cloud_service.tasks.tracking import TrackingSettings
from cloud_service.training import distill, evaluate, pipeline, weights
from cloud_service.training.calibrate import Calibration
from cloud_service.training.incumbent import open_incumbent
from cloud_service.training.lineage import differences
from cloud_service.training.progress import silent
from cloud_service.training.proving import calibrate_student, decide, evaluate_both
from cloud_service.training.quantized import Loss, Quantized
from cloud_service.training.request import CANDIDATE, INCUMBENT, REQUEST, SAMPLES, TrainingRequest
from cloud_service.training.results import Evaluated
from cloud_service.training.run import prepare
from cloud_service.training.variants import family
from shared import bundle, deferral
from shared.deferral import NAMES
from shared.errors import SettingsError
from shared.manifest import Deferral
from shared.uncertainty import Score
from tests.unit.cloud_service.training.conftest import write_samples


@pytest.fixture(scope="module")
def task(task):
    """With fewer steps, and inputs for the quantizer: neither is what is tested here."""
    quick = task.training.model_copy(update={"calibration_samples": 128, "steps": 40})
    return task.model_copy(update={"training": quick})


@pytest.fixture(scope="module")
def finished(tmp_path_factory, task):
    """A whole run against an incumbent, and its report; not to be written to."""
    first, folder = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    for each in (first, folder):
        write_samples(each / SAMPLES)
    pipeline.run(TrainingRequest(task=task), first, silent)
    shutil.copy(first / CANDIDATE, folder / INCUMBENT)
    return folder, pipeline.run(TrainingRequest(task=task, version="rows-2"), folder, silent)


@pytest.fixture
def out(tmp_path, finished):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    return folder


def candidate(task, out):
    (only,) = family(prepare(TrainingRequest(task=task, version="rows-2"), out, silent))
    return only


def results(this):
    return this.result("quantize", Quantized), this.result("evaluate", Evaluated)


def test_report_says_what_each_score_budget_and_class_is_worth(finished):
    _, report = finished
    assert set(report.calibration.rankings) == {"max_probability", "margin", "entropy", "energy"}
    assert report.calibration.rows == 60
    assert "60 different uploads" in report.calibration.deferral_reason
    assert [one.label for one in report.classes] == list("abcd")
    assert sum(one.samples for one in report.classes) == 100
    assert all(one.incumbent is not None for one in report.classes)
    assert report.latency.low <= report.latency.ratio <= report.latency.high
    assert report.latency_ratio == report.latency.ratio
    json.loads(report.model_dump_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_few_uploads_are_not_calibrated_on_and_the_report_says_so(task, tmp_path, out):
    write_samples(out / SAMPLES, count=29)
    (out / "lineage.json").unlink()
    this = candidate(task, out)
    assert this.run.judged_by_uploads
    np.savez(out / "scores.npz", logits=np.zeros((29, 4), np.float32))
    found = calibrate_student(this)
    assert found.rows == 100
    assert found.notes[0].startswith("29 uploads are too few to calibrate on")


def test_report_says_how_int8_came_to_be_and_what_it_lost(finished, out, task):
    _, report = finished
    this = candidate(task, out)
    quantized, _ = results(this)
    assert report.quantized == quantized
    assert quantized.how.method in {"minmax", "entropy", "percentile"}
    # By hand: the shipped file and its float student on the uploads.
    uploads = this.run.samples
    student = weights.load(this.student, task)[-1]
    answers = uploads.teacher_probs.argmax(1)
    exact = distill.answer(student, uploads.x).argmax(1)
    rounded = evaluate.open_runner(out / "model.onnx")(uploads.x).argmax(1)
    lost = np.average((exact == answers) * 1.0 - (rounded == answers), weights=uploads.weight)
    assert quantized.field.share == pytest.approx(lost)
    assert quantized.field.changed == pytest.approx(np.average(exact != rounded, weights=uploads.weight))


def test_what_the_file_loses_on_uploads_is_taken_off_its_agreement(task, out):
    this = candidate(task, out)
    quantized, before = results(this)
    worse = replace(quantized, field=Loss(max(0.0, quantized.field.share) + 0.25, 0.4, 0.3))
    after = evaluate_both(this, worse, this.result("calibrate", Calibration))
    assert after.after.field_agreement == pytest.approx(before.after.field_agreement - 0.25)
    assert after.field_error == pytest.approx(np.hypot(before.field_error, 0.4))
    better = replace(quantized, field=Loss(-0.25, 0.0, 0.3))
    credited = evaluate_both(this, better, this.result("calibrate", Calibration)).after.field_agreement
    assert credited == pytest.approx(before.after.field_agreement + max(0.0, quantized.field.share))


def test_gate_refuses_int8_that_loses_more_than_the_variant_allows(task, out):
    this = candidate(task, out)
    quantized, evaluated = results(this)
    decision = decide(this, replace(quantized, chosen_by=Loss(0.2, 0.01, 0.3)), evaluated)
    assert ["int8 loses 0.2000" in reason for reason in decision.reasons] == [True]


def limited(task, **profiles):
    return task.model_copy(update={"profiles": profiles})


def test_candidate_over_every_profile_is_stopped_and_kept(task, out):
    tight = limited(task, cam=DeviceProfile(max_model_bytes=100), toy=DeviceProfile(max_memory_bytes=1))
    this = candidate(tight, out)
    quantized, evaluated = results(this)
    measured = evaluate_both(this, quantized, this.result("calibrate", Calibration))
    assert measured.memory_bytes > 1_000
    decision = decide(this, quantized, measured)
    assert not decision.passed
    assert ["profile cam" in decision.reasons[0], "profile toy" in decision.reasons[1]] == [True, True]
    assert (out / CANDIDATE).exists()
    assert evaluated.memory_bytes is None  # nobody asked


def test_candidate_that_fits_one_profile_says_which(task, out):
    this = candidate(limited(task, cam=DeviceProfile(max_model_bytes=100), hub=DeviceProfile()), out)
    assert decide(this, *results(this)).fits == ("hub",)


def test_gate_looks_at_each_class(task, out):
    this = candidate(task, out)
    quantized, evaluated = results(this)
    forgot = replace(evaluated.classes[1], candidate=0.5)
    decision = decide(this, quantized, replace(evaluated, classes=(forgot,)))
    assert ["class b fell" in reason for reason in decision.reasons] == [True]


def test_learned_score_rides_in_the_bundle_and_scores_it_as_incumbent(task, out, tmp_path):
    learned = Deferral(intercept=-1.0, coefficients=dict.fromkeys(NAMES, 0.1), classes=(0.0, 1.0, 2.0, 3.0))
    calibrated = json.loads((out / "calibrate.json").read_text())
    calibrated |= {"score": "deferral", "deferral": learned.model_dump(), "threshold": 0.5}
    (out / "calibrate.json").write_text(json.dumps(calibrated))
    request = TrainingRequest(task=task, version="rows-2")
    for stage in ("evaluate", "gate", "bundle"):
        pipeline.run_stage(request, out, silent, stage=stage)
    manifest = bundle.inspect(out / CANDIDATE).manifest
    assert (manifest.score, manifest.deferral) == (Score.DEFERRAL, learned)
    incumbent = open_incumbent(out / CANDIDATE, tmp_path / "opened", task)
    assert (incumbent.score, incumbent.deferral) == (Score.DEFERRAL, learned)

    with np.load(out / "scores.npz") as scores, np.load(out / SAMPLES) as samples:
        hard = deferral.score(scores["logits"], manifest.temperature, learned) >= 0.5
        weight = samples["weight"]
    this = candidate(task, out)
    # The incumbent learnt from all uploads, so both are judged by all of them.
    assert results(this)[1].after.offload_rate == pytest.approx(np.average(hard, weights=weight), abs=1e-6)


def test_run_of_equal_lineage_is_the_same_bit_for_bit_in_another_process(task, out, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    write_samples(other / SAMPLES)
    shutil.copy(out / INCUMBENT, other / INCUMBENT)
    (other / REQUEST).write_text(TrainingRequest(task=task, version="rows-2").model_dump_json())
    command = [sys.executable, "-W", "error", "-m", "cloud_service.training.pipeline", str(other)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    mine, theirs = (bundle.inspect(folder / CANDIDATE) for folder in (out, other))
    assert differences(mine.manifest.lineage, theirs.manifest.lineage) == []
    assert mine.sha256 == theirs.sha256


@pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None,
    reason="the extra mlflow is not installed: pip install 'edgeloop[mlflow]'",
)
def test_finished_run_is_noted_where_the_task_says(task, out, tmp_path):
    tracked = task.model_copy(update={"tracking": TrackingSettings(uri=(tmp_path / "store").as_uri())})
    (out / REQUEST).write_text(TrainingRequest(task=tracked, version="rows-2").model_dump_json())
    command = [sys.executable, "-m", "cloud_service.training.pipeline", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = [file.read_text() for file in (tmp_path / "store").rglob("tags/mlflow.runName")]
    assert names == ["rows-2"]


def test_missing_tracker_is_said_before_anything_is_trained(task, out, monkeypatch):
    tracked = task.model_copy(update={"tracking": TrackingSettings(uri="http://nowhere.invalid")})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="mlflow is missing"):
        prepare(TrainingRequest(task=tracked), out, silent)
