"""`edgeloop distill run --local`: a run over a folder, without a service; the pipeline is the stand-in."""

import fcntl
import json
import os

import numpy as np
import pytest

from cloud_service.training import pipeline
from cloud_service.training.local import RunFailed, read_task, run_here
from cloud_service.training.stage import Stage
from shared.errors import SettingsError
from tests.sim.bundles import LABELS, linear_model, make, weights
from tests.sim.pipeline import COMMAND


@pytest.fixture
def task_file(tmp_path):
    file = tmp_path / "task" / "digits.toml"
    file.parent.mkdir()
    (file.parent / "teacher.onnx").write_bytes(linear_model(weights(64, 10)))
    file.write_text(
        f'name = "digits"\nlabels = {json.dumps(LABELS)}\ninput_shape = [8, 8]\ninput_dtype = "uint8"\n'
        'teacher = "teacher.onnx"\nbase_data = "base.npz"\n[training]\nsteps = 7\n'
    )
    return file


@pytest.fixture
def run(task_file, tmp_path):
    def here(mode="pass", **values):
        return run_here(task_file, tmp_path / "out", on_step=steps.append, command=(*COMMAND, mode), **values)

    steps = []
    here.steps = steps
    return here


def test_task_file_is_read_with_paths_below_its_folder(task_file):
    task = read_task(task_file)
    assert task.base_data == task_file.parent / "base.npz"
    assert task.teacher[0].files[0] == task_file.parent / "teacher.onnx"
    task_file.write_text(task_file.read_text() + "stepz = 1\n")
    with pytest.raises(SettingsError, match="stepz"):
        read_task(task_file)


def test_run_leaves_its_candidate_and_gives_its_report(run, tmp_path):
    np.savez(tmp_path / "samples.npz", x=np.zeros(1))
    make(tmp_path / "old.bundle", version="v1")
    report = run(samples=tmp_path / "samples.npz", incumbent=tmp_path / "old.bundle", seed=5)
    out = tmp_path / "out"
    assert (report["passed"], report["lineage"]) == (True, {"seed": 5})
    assert (out / "candidate.bundle").exists()
    assert (out / "samples.npz").read_bytes() == (tmp_path / "samples.npz").read_bytes()
    assert (out / "incumbent.bundle").exists()
    assert [step.done for step in run.steps] == [1, 2]


def test_run_again_goes_on_in_its_folder_and_another_run_is_refused(run, tmp_path):
    run()
    run()
    assert (tmp_path / "out" / "starts").read_text().split() == ["started", "started"]
    (tmp_path / "out" / "distill.seconds.json").write_text("1.0")
    with pytest.raises(SettingsError, match=r"\(task.training.seed: 0 and 9\): use an empty folder"):
        run(seed=9)
    np.savez(tmp_path / "samples.npz", x=np.zeros(1))
    with pytest.raises(SettingsError, match=r"\(given now: samples.npz\)"):
        run(samples=tmp_path / "samples.npz")


def test_folder_of_a_run_that_came_to_nothing_takes_corrected_settings(run, tmp_path):
    with pytest.raises(RunFailed):
        run("fail")
    (tmp_path / "out" / "lineage.json").write_text("{}")
    report = run(seed=9)
    assert report["lineage"] == {"seed": 9}


@pytest.mark.parametrize("left", ["distill.saved.pt", "distill.seconds.json", "student.pt"])
def test_folder_of_a_run_that_came_further_is_kept(run, tmp_path, left):
    with pytest.raises(RunFailed):
        run("fail")
    (tmp_path / "out" / left).write_bytes(b"hours")
    with pytest.raises(SettingsError, match="use an empty folder"):
        run(seed=9)
    assert (tmp_path / "out" / left).exists()


def test_second_run_in_a_folder_is_refused_while_the_first_works(run, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    holder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with pytest.raises(SettingsError, match="another run works"):
        run()
    assert not (folder / "starts").exists()
    os.close(holder)
    assert run()["passed"]


def test_stage_alone_gives_its_result(run, tmp_path):
    assert run(stage=Stage.TEACH) == {"teach": {"alone": "teach"}}
    (tmp_path / "out" / "teach.half.json").write_text("3")  # as of a further variant
    (tmp_path / "out" / "teach.seconds.json").write_text("1.0")
    assert run(stage=Stage.TEACH) == {"teach": {"alone": "teach"}, "teach.half": 3}
    assert not (tmp_path / "out" / "report.json").exists()


def test_stages_of_the_command_line_are_the_pipelines():
    assert tuple(Stage) == (pipeline.TEACH, *pipeline.STAGES)


@pytest.mark.parametrize(("mode", "code", "words"), [("fail", 65, "the data is bad"), ("crash", 1, "log.txt")])
def test_failed_run_says_why_with_its_own_code(run, mode, code, words):
    with pytest.raises(RunFailed, match=words) as caught:
        run(mode)
    assert caught.value.exit_code == code


def test_missing_samples_are_named_and_leave_no_request(run, tmp_path):
    with pytest.raises(SettingsError, match=r"missing\.npz"):
        run(samples=tmp_path / "missing.npz")
    assert not (tmp_path / "out" / "request.json").exists()


async def test_local_options_without_a_file_or_a_folder_are_refused(edgeloop, task_file, tmp_path):
    for arguments in (
        ("--local", task_file),
        ("digits", "--out", tmp_path),
        ("digits", "--local", task_file),
        ("digits", "--stage", "prune"),
    ):
        code, _, err = await edgeloop("distill", "run", *arguments)
        assert code == 2
        assert "--local" in err
