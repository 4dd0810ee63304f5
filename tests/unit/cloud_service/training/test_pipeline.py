import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from cloud_service import runtime
from cloud_service.tasks.task import TaskDefinition
from cloud_service.training import pipeline
from cloud_service.training.evaluate import open_runner
from cloud_service.training.progress import parse, silent
from cloud_service.training.request import (
    CANDIDATE,
    ERROR,
    INCUMBENT,
    REPORT,
    REQUEST,
    SAMPLES,
    TrainingReport,
    TrainingRequest,
    read_request,
)
from cloud_service.training.run import prepare
from shared import bundle
from shared.errors import BundleError, SampleError, SettingsError
from shared.uncertainty import hardness
from tests.unit.cloud_service.training.conftest import write_samples

PLAIN = tuple(stage for stage in pipeline.STAGES if stage != "prune")  # of a variant that is not pruned


class PowerCut(BaseException):
    """What a killed process sees of it: nothing after this line runs."""


@pytest.fixture
def out(tmp_path, task):
    folder = tmp_path / "run"
    folder.mkdir()
    write_samples(folder / SAMPLES)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, task):
    """The folder of a whole run over the same request; not to be written to."""
    folder = tmp_path_factory.mktemp("finished")
    write_samples(folder / SAMPLES)
    pipeline.run(TrainingRequest(task=task), folder, silent)
    return folder


def test_run_makes_a_bundle_that_a_device_can_use(task, out):
    steps = []
    report = pipeline.run(
        TrainingRequest(task=task, version="rows-2", created_at="2026-11-24T00:00:00Z"), out, steps.append
    )
    assert report.passed, report.reasons
    assert report.samples == 60
    assert report.after.field_agreement > 0.5
    assert report.parent is None
    assert set(report.stage_seconds) == set(PLAIN)
    assert [step.stage for step in steps if step.done == step.total] == ["distill", *PLAIN]

    manifest = bundle.unpack(out / CANDIDATE, out / "unpacked")
    assert bundle.sha256_file(out / CANDIDATE) == report.bundle_sha256
    assert (manifest.task, manifest.version, manifest.labels) == ("rows", "rows-2", tuple("abcd"))
    assert manifest.threshold == report.threshold
    assert manifest.outputs.embedding == "embedding"
    assert manifest.lineage["seed"] == 0
    assert manifest.metrics["field_agreement"] == report.after.field_agreement
    golden = bundle.load_golden(out / "unpacked", manifest)
    session = runtime.load_session(out / "unpacked" / bundle.MODEL)
    assert np.allclose(session.run(["logits"], {"input": golden.inputs})[0], golden.logits, atol=1e-5)


def test_golden_samples_are_none_that_a_device_sent(task, tmp_path, finished):
    manifest = bundle.unpack(finished / CANDIDATE, tmp_path)
    golden = bundle.load_golden(tmp_path, manifest).inputs
    with np.load(task.base_data) as base:
        known = {sample.tobytes() for sample in base["x_eval"]}
    assert {sample.tobytes() for sample in golden} <= known


def test_run_holds_the_candidate_against_the_incumbent(task, out, finished):
    shutil.copy(finished / CANDIDATE, out / INCUMBENT)
    report = pipeline.run(TrainingRequest(task=task), out, silent)
    parent = bundle.inspect(finished / CANDIDATE).manifest.version
    assert report.parent == parent
    assert report.before is not None
    assert report.before.field_agreement is not None
    assert report.latency_ratio is not None
    assert report.version.startswith("rows-")
    assert bundle.inspect(out / CANDIDATE).manifest.parent == parent


def test_incumbent_is_judged_by_uploads_that_came_after_its_own(task, out, finished):
    shutil.copy(finished / CANDIDATE, out / INCUMBENT)  # it learnt from uploads 0 to 59
    write_samples(out / SAMPLES, count=100)
    report = pipeline.run(TrainingRequest(task=task), out, silent)
    with np.load(out / SAMPLES) as uploads, np.load(out / "scores.npz") as scores:
        answers, weight, x, logits = (
            uploads["teacher_probs"].argmax(1)[60:], uploads["weight"][60:], uploads["x"][60:], scores["logits"][60:],
        )  # fmt: skip
    old = open_runner(out / "incumbent" / bundle.MODEL)(x)
    assert report.before.field_agreement == pytest.approx(np.average(old.argmax(1) == answers, weights=weight))
    assert report.after.field_agreement == pytest.approx(np.average(logits.argmax(1) == answers, weights=weight))


def test_too_few_uploads_to_hold_any_out_decide_nothing(task, out):
    write_samples(out / SAMPLES, count=4)
    report = pipeline.run(TrainingRequest(task=task), out, silent)
    assert report.samples == 4
    assert report.after.field_agreement is None
    with np.load(task.base_data) as base:
        hard = hardness(open_runner(out / "model.onnx")(base["x_eval"]), report.temperature) >= report.threshold
    assert hard.mean() == pytest.approx(report.expected_offload_rate)


def test_equal_uploads_are_held_out_together(task, out):
    write_samples(out / SAMPLES, count=30)
    with np.load(out / SAMPLES) as file:
        twice = {name: np.concatenate([file[name], file[name]]) for name in file.files}
    twice["order"] = np.arange(60)
    np.savez(out / SAMPLES, **twice)
    this = prepare(TrainingRequest(task=task), out, silent)
    assert this.folds.max() == 2
    assert np.array_equal(this.folds[:30], this.folds[30:])


def test_candidate_that_breaks_a_rule_is_reported_not_raised(task, out):
    strict = task.training.model_copy(update={"gate": task.training.gate.model_copy(update={"max_model_bytes": 100})})
    report = pipeline.run(TrainingRequest(task=task.model_copy(update={"training": strict})), out, silent)
    assert not report.passed
    assert "100 are allowed" in report.reasons[0]


def test_run_that_is_killed_after_each_stage_goes_on_where_it_was(task, out, finished):
    worked: list[str] = []

    def cut(step):
        if step.done == 0:
            worked.append(step.stage)
        elif step.done == step.total == 1:
            raise PowerCut

    for _ in PLAIN:
        assert not (out / CANDIDATE).exists()
        with pytest.raises(PowerCut):
            pipeline.run(TrainingRequest(task=task), out, cut)
    resumed = pipeline.run(TrainingRequest(task=task), out, cut)
    assert worked == list(PLAIN)  # each stage once, in order
    assert resumed.passed
    assert (out / "model.onnx").read_bytes() == (finished / "model.onnx").read_bytes()


def test_run_that_was_killed_while_distilling_repeats_the_stage(task, out, finished):
    def kill_half_way(step):
        if step.stage == "distill" and step.done > 50:
            raise PowerCut

    with pytest.raises(PowerCut):
        pipeline.run(TrainingRequest(task=task), out, kill_half_way)
    pipeline.run(TrainingRequest(task=task), out, silent)
    assert (out / "model.onnx").read_bytes() == (finished / "model.onnx").read_bytes()


def test_folder_of_another_run_is_refused(task, out, finished):
    shutil.copytree(finished, out, dirs_exist_ok=True)
    write_samples(out / SAMPLES, count=50)
    with pytest.raises(SettingsError, match="use an empty folder"):
        pipeline.run(TrainingRequest(task=task), out, silent)


def test_stage_result_that_cannot_be_read_names_the_file(task, out, finished):
    shutil.copytree(finished, out, dirs_exist_ok=True)
    (out / "gate.json").write_text("{}")
    with pytest.raises(SettingsError, match=r"gate\.json"):
        pipeline.run(TrainingRequest(task=task), out, silent)


@pytest.mark.parametrize("setting", ["teacher", "base_data"])
def test_missing_file_of_the_task_names_the_setting(task, out, setting):
    changed = TaskDefinition.model_validate(task.model_dump() | {setting: out / "absent"})
    request = TrainingRequest(task=changed)
    with pytest.raises(SettingsError, match=f"of task rows: there is no file .*: correct {setting} in"):
        pipeline.run(request, out, silent)


def test_broken_samples_are_refused(task, out):
    (out / SAMPLES).write_bytes(b"broken")
    with pytest.raises(SampleError, match="export them"):
        pipeline.run(TrainingRequest(task=task), out, silent)


def test_broken_incumbent_is_refused(task, out):
    (out / INCUMBENT).write_bytes(b"broken")
    with pytest.raises(BundleError, match="not a bundle"):
        pipeline.run(TrainingRequest(task=task), out, silent)


def test_incumbent_of_another_task_is_refused(task, out, finished):
    shutil.copy(finished / CANDIDATE, out / INCUMBENT)
    with pytest.raises(BundleError, match="is of task rows"):
        pipeline.run(TrainingRequest(task=task.model_copy(update={"name": "columns"})), out, silent)


@pytest.mark.parametrize("content", [None, "{", '{"colour": 1}'])
def test_request_that_is_no_request_says_so(tmp_path, content):
    if content is not None:
        (tmp_path / REQUEST).write_text(content)
    with pytest.raises(SettingsError, match=r"request\.json"):
        read_request(tmp_path)


def test_process_reports_in_json_lines_and_leaves_its_report(task, out):
    (out / REQUEST).write_text(TrainingRequest(task=task).model_dump_json())
    done = _start(out)
    assert done.returncode == 0, done.stderr
    steps = [parse(line) for line in done.stdout.splitlines()]
    assert steps[0].stage == "distill"
    assert steps[-1].stage == "bundle"
    report = TrainingReport.model_validate_json((out / REPORT).read_bytes())
    assert report.passed
    assert not (out / ERROR).exists()


def test_process_that_fails_leaves_one_clear_message(task, out):
    broken = task.model_copy(update={"base_data": out / "absent.npz"})
    (out / REQUEST).write_text(TrainingRequest(task=broken).model_dump_json())
    done = _start(out)
    assert done.returncode == SettingsError.exit_code
    error = json.loads((out / ERROR).read_text())
    assert error["error"] == "SettingsError"
    assert "absent.npz" in error["message"]
    assert not (out / REPORT).exists()


def _start(folder):
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "cloud_service.training.pipeline", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
