import asyncio
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cloud_service.errors import TeacherError
from cloud_service.teacher.loading import load, load_model
from cloud_service.teacher.record import CHOICE, REQUEST
from shared.errors import SettingsError
from shared.uncertainty import softmax
from tests.sim import teachers
from tests.sim.bundles import linear_model, sample, weights

X = np.stack([sample(3), sample(7)])


async def test_small_onnx_file_runs_as_it_is_and_that_is_recorded(tmp_path):
    task = teachers.write_task(tmp_path, str(tmp_path / "model.onnx"))
    model = await load_model(task, folder=tmp_path / "teachers")
    assert model.version.startswith("model-onnx-")
    assert (model.max_batch, model.window_s, model.temperature) == (8, 0.0, 1.0)
    assert model.infer(X).logits.argmax(axis=1).tolist() == [3, 7]
    assert model.infer(X).embedding.shape == (2, 64)
    (record,) = (tmp_path / "teachers").glob(f"*/{CHOICE}")
    before = record.stat().st_mtime_ns
    assert "nothing to gain" in json.loads(record.read_text())["choice"]["reason"]
    assert (await load_model(task, folder=tmp_path / "teachers")).version == model.version
    assert record.stat().st_mtime_ns == before


TWICE = """
import json, sys, numpy as np
from pathlib import Path
from cloud_service.teacher.conversion import REQUESTS
from cloud_service.teacher.loading import load
folder = Path(sys.argv[1])
task = REQUESTS.validate_json((folder / "task.json").read_bytes()).task
x = np.load(folder / "x.npy")
said = []
for _ in range(2):
    model = load(task, folder=folder / "teachers")
    (record,) = (folder / "teachers").glob("*/choice.json")
    answer = model.infer(x).logits.argmax(axis=1).tolist()
    said.append([model.version, record.stat().st_mtime_ns, answer, "torch" in sys.modules, "onnx" in sys.modules])
print(json.dumps(said))
"""


def test_model_is_converted_once_by_a_process_that_keeps_torch_to_itself(tmp_path):
    from cloud_service.teacher.conversion import REQUESTS, ConversionRequest

    settings = {"model": str(tmp_path / "model.onnx"), "backend": "onnxruntime-int8"}
    task = teachers.write_task(tmp_path, settings)
    (tmp_path / "task.json").write_bytes(REQUESTS.dump_json(ConversionRequest(task, task.teacher[0], {})))
    np.save(tmp_path / "x.npy", X)
    done = subprocess.run([sys.executable, "-c", TWICE, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout.splitlines()[-1])
    assert first == second
    assert first[0].startswith("model-int8-")
    assert first[2:] == [[3, 7], False, False]


def test_two_that_load_at_once_convert_once(tmp_path, caplog):
    caplog.set_level("INFO")
    task = teachers.write_task(tmp_path, {"model": str(tmp_path / "model.onnx"), "backend": "onnxruntime-int8"})
    with ThreadPoolExecutor(2) as pool:
        versions = {model.version for model in pool.map(lambda _: load(task, folder=tmp_path / "teachers"), range(2))}
    assert len(versions) == 1
    assert caplog.text.count("converting and measuring") == 1


async def test_conversion_that_is_given_up_ends_at_once(tmp_path):
    file = teachers.save_weights(tmp_path / "w.pt")
    task = teachers.write_task(tmp_path, {"model": "tests.sim.teachers:slow", "weights": file})
    loading = asyncio.create_task(load_model(task, folder=tmp_path / "teachers"))
    async with asyncio.timeout(60):
        while not list(tmp_path.glob(f"teachers/*/{REQUEST}")):
            await asyncio.sleep(0.01)
        loading.cancel()
        await asyncio.wait([loading])
        # Its thread ends, and so the child that it waits for.
        await asyncio.get_running_loop().shutdown_default_executor()


def test_teacher_that_cannot_be_measured_runs_as_it_is(tmp_path, caplog):
    task = teachers.write_task(
        tmp_path, {"model": teachers.FACTORY, "weights": teachers.save_weights(tmp_path / "w.pt")}
    )
    task.base_data.unlink()
    model = load(task, folder=tmp_path / "teachers")
    assert model.version.startswith("LinearTeacher-torch-")
    assert model.infer(X).logits.argmax(axis=1).tolist() == [3, 7]
    assert "runs as it is on torch" in caplog.text
    assert "base_data of task digits" in caplog.text


def test_backend_that_was_asked_for_and_cannot_be_had_is_an_error(tmp_path):
    settings = {"model": str(tmp_path / "model.onnx"), "backend": "onnxruntime-int8"}
    task = teachers.write_task(tmp_path, settings)
    task.base_data.unlink()
    with pytest.raises(SettingsError, match="base_data"):
        load(task, folder=tmp_path / "teachers")


def test_ensemble_with_views_answers_as_one(tmp_path):
    (tmp_path / "shifted.onnx").write_bytes(linear_model(weights(64, 10, shift=1, gain=0.2)))
    one = {"model": str(tmp_path / "model.onnx"), "temperature": 2.0, "augmentations": "tests.sim.teachers:mirrored"}
    task = teachers.write_task(tmp_path, [one, {"model": str(tmp_path / "shifted.onnx"), "share": 0.5}])
    model = load(task, folder=tmp_path / "teachers")
    given = model.infer(X)
    own = softmax(np.eye(10)[3] * 0.5 * 16 / 2.0), softmax(np.eye(10)[3] * 0.5 * 8 / 2.0)
    shifted = softmax(np.eye(10)[2] * 0.2 * 16)
    assert softmax(given.logits)[0] == pytest.approx((own[0] + own[1] + shifted) / 3, abs=1e-5)
    assert model.version.startswith("ensemble2-")
    assert given.embedding.shape == (2, 64)
    assert (given.disagreement > 0.1).all()
    assert model.temperature == 1.0


def test_missing_teacher_names_the_setting(tmp_path):
    task = teachers.write_task(tmp_path, str(tmp_path / "none.onnx"))
    with pytest.raises(TeacherError, match=r"there is no teacher at .*\[tasks\.digits\] teacher"):
        load(task, folder=tmp_path / "teachers")


@pytest.mark.parametrize("data", [b"not a model", linear_model(weights(16, 10), shape=(4, 4))])
def test_file_that_is_no_teacher_for_the_task_says_so(tmp_path, data):
    (tmp_path / "bad.onnx").write_bytes(data)
    for backend in ("auto", "onnxruntime"):
        task = teachers.write_task(tmp_path, {"model": str(tmp_path / "bad.onnx"), "backend": backend})
        with pytest.raises(TeacherError, match=r"task 'digits': the teacher .*bad\.onnx does not run"):
            load(task, folder=tmp_path / "teachers")


def test_teacher_with_other_labels_says_how_many(tmp_path):
    task = teachers.write_task(tmp_path, str(tmp_path / "model.onnx"), labels=("a", "b"))
    with pytest.raises(TeacherError, match="the task has 2 labels"):
        load(task, folder=tmp_path / "teachers")


def test_views_that_do_not_fit_are_found_before_the_first_sample(tmp_path):
    settings = {"model": str(tmp_path / "model.onnx"), "augmentations": "tests.sim.teachers:badly_shaped"}
    task = teachers.write_task(tmp_path, settings)
    with pytest.raises(TeacherError, match="augmentations gave"):
        load(task, folder=tmp_path / "teachers")


def test_changed_file_is_another_version(tmp_path):
    task = teachers.write_task(tmp_path, str(tmp_path / "model.onnx"))
    before = load(task, folder=tmp_path / "teachers").version
    (tmp_path / "model.onnx").write_bytes(linear_model(weights(64, 10, shift=1)))
    after = load(task, folder=tmp_path / "teachers")
    assert after.version != before
    assert after.infer(X).logits.argmax(axis=1).tolist() == [2, 6]
