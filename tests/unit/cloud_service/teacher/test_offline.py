import numpy as np
import pytest

from cloud_service.errors import ModelError
from cloud_service.tasks.data import BaseData
from cloud_service.teacher.offline import open_teacher, open_whole_teacher
from cloud_service.training.evaluate import open_runner
from cloud_service.training.lineage import describe_lineage
from shared.errors import SettingsError
from shared.uncertainty import softmax
from tests.sim import teachers
from tests.sim.bundles import linear_model, sample, weights

X = np.stack([sample(3), sample(7)])


def lineage(task):
    no_data = BaseData(*[np.zeros(0, np.int64)] * 4)
    return describe_lineage(task, no_data, samples=task.base_data, newest_upload=None, parent=None)


def test_training_asks_an_onnx_teacher_as_it_is(tmp_path):
    task = teachers.write_task(tmp_path, {"model": str(tmp_path / "model.onnx"), "backend": "onnxruntime-int8"})
    assert (open_teacher(task)(X) == open_runner(tmp_path / "model.onnx")(X)).all()


def test_training_asks_a_torch_teacher_and_an_ensemble(tmp_path):
    own = {"model": teachers.FACTORY, "weights": teachers.save_weights(tmp_path / "w.pt")}
    assert open_teacher(teachers.write_task(tmp_path, own))(X).argmax(axis=1).tolist() == [3, 7]
    (tmp_path / "shifted.onnx").write_bytes(linear_model(weights(64, 10, shift=1)))
    task = teachers.write_task(tmp_path, [own, {"model": str(tmp_path / "shifted.onnx"), "share": 3.0}])
    probabilities = softmax(open_teacher(task)(X))
    assert probabilities[0, 2] == pytest.approx(0.75, abs=0.01)
    assert probabilities[0, 3] == pytest.approx(0.25, abs=0.01)


def test_teacher_that_does_not_load_or_run_is_a_model_error(tmp_path):
    task = teachers.write_task(tmp_path, str(tmp_path / "model.onnx"))
    with pytest.raises(ModelError, match="does not run on samples"):
        open_teacher(task)(np.zeros((2, 3, 3), np.uint8))
    (tmp_path / "model.onnx").write_bytes(b"broken")
    with pytest.raises(ModelError, match="does not load"):
        open_teacher(task)
    own = {"model": teachers.FACTORY, "weights": tmp_path / "none.pt"}
    with pytest.raises(ModelError, match=r"none\.pt"):
        open_teacher(teachers.write_task(tmp_path, own))
    with pytest.raises(SettingsError, match="nothing callable"):
        open_teacher(teachers.write_task(tmp_path, own | {"model": "tests.sim.teachers:none"}))


def test_lineage_says_who_taught_unless_it_was_one_plain_file(tmp_path):
    plain = teachers.write_task(tmp_path, str(tmp_path / "model.onnx"))
    warm = teachers.write_task(tmp_path, {"model": str(tmp_path / "model.onnx"), "temperature": 2.0})
    two = teachers.write_task(tmp_path, [{"model": str(tmp_path / "model.onnx")}] * 2)
    said = [lineage(task) for task in (plain, warm, two)]
    assert "taught_by" not in said[0]
    assert said[1]["taught_by"] == [{"temperature": 2.0, "share": 1.0, "augmentations": None, "model": ""}]
    assert len(said[2]["taught_by"]) == 2
    assert {"teacher", "teacher 2"} <= said[2]["files_sha256"].keys()
    assert len({one["data_sha256"] for one in said}) == 3


def test_more_samples_than_at_once_are_answered_in_parts_as_alone(tmp_path):
    task = teachers.write_task(tmp_path, {"model": str(tmp_path / "model.onnx"), "temperature": 2.0})
    (tmp_path / "model.onnx").write_bytes(linear_model(weights(64, 10), embedding=True))
    many = np.random.default_rng(0).integers(0, 17, (1100, 8, 8)).astype(np.uint8)
    whole = open_whole_teacher(task)(many)
    last = open_whole_teacher(task)(many[1090:])
    assert whole.logits.shape == (1100, 10)
    np.testing.assert_array_equal(whole.logits[1090:], last.logits)
    np.testing.assert_array_equal(whole.embedding[1090:], last.embedding)
