import numpy as np
import pytest

from cloud_service.tasks.data import load_base, load_samples
from cloud_service.tasks.task import TaskDefinition, TrainingSettings
from shared.errors import SampleError, SettingsError

PROBS = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], dtype=np.float32)


@pytest.fixture
def task(tmp_path):
    return TaskDefinition(
        name="t", labels=("a", "b"), input_shape=(2, 2), input_dtype="uint8",
        teacher=tmp_path / "teacher.onnx", base_data=tmp_path / "base.npz",
    )  # fmt: skip


def base(**changes):
    arrays = {
        "x": np.zeros((3, 2, 2), np.uint8),
        "y": np.array([0, 1, 1]),
        "x_eval": np.zeros((2, 2, 2), np.uint8),
        "y_eval": np.array([0, 1], np.int32),
    }
    return {name: value for name, value in (arrays | changes).items() if value is not None}


def samples(**changes):
    arrays = {
        "x": np.arange(12, dtype=np.uint8).reshape(3, 2, 2),
        "teacher_probs": PROBS,
        "weight": np.array([1.0, 20.0, 1.0]),
        "order": np.array([30, 10, 20]),
    }
    return {name: value for name, value in (arrays | changes).items() if value is not None}


def test_base_data_is_read(task):
    np.savez(task.base_data, **base())
    read = load_base(task)
    assert read.x.shape == (3, 2, 2)
    assert read.y_eval.dtype == np.int64


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"y": None}, "lacks y"),
        ({"x": np.zeros((3, 2, 3), np.uint8)}, "x has shape"),
        ({"x": np.zeros((3, 2, 2), np.float32)}, "dtype float32"),
        ({"x_eval": np.zeros((0, 2, 2), np.uint8), "y_eval": np.zeros(0, np.int64)}, "x_eval is empty"),
        ({"y": np.array([0, 1])}, "y must be 3 whole numbers"),
        ({"y": np.array([0.0, 1.0, 1.0])}, "whole numbers"),
        ({"y": np.array([0, 1, 2])}, "the task has 2 labels"),
        ({"y": np.array([0, -1, 1])}, "holds -1"),
        ({"x": np.uint8(3)}, "x has shape"),
    ],
)
def test_base_data_that_does_not_fit_is_refused(task, changes, said):
    np.savez(task.base_data, **base(**changes))
    with pytest.raises(SettingsError, match=said) as caught:
        load_base(task)
    assert str(task.base_data) in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"not an npz", b"PK\x03\x04 cut"])
def test_base_data_that_is_missing_or_broken_says_so(task, content):
    if content is not None:
        task.base_data.write_bytes(content)
    with pytest.raises(SettingsError, match="base_data of task t"):
        load_base(task)


def test_base_data_cut_short_says_so(task):
    np.savez(task.base_data, **base())
    whole = task.base_data.read_bytes()
    task.base_data.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SettingsError, match="cut short"):
        load_base(task)


def test_base_data_that_is_one_array_says_so(task):
    with task.base_data.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(SettingsError, match="base_data of task t"):
        load_base(task)


def test_base_data_with_pickled_objects_is_refused(task):
    np.savez(task.base_data, **base(y=np.array([{}, {}, {}], dtype=object)))
    with pytest.raises(SettingsError, match="base_data of task t"):
        load_base(task)


def test_samples_come_in_order_of_arrival(task, tmp_path):
    np.savez(tmp_path / "samples.npz", **samples())
    read = load_samples(tmp_path / "samples.npz", task)
    assert read.order.tolist() == [10, 20, 30]
    assert read.weight.tolist() == [20.0, 1.0, 1.0]
    assert read.x[2, 0, 0] == 0
    assert len(read) == 3


def test_samples_that_a_person_labelled_are_certain_and_stay_with_their_rows(task, tmp_path):
    np.savez(tmp_path / "samples.npz", **samples(certain=np.array([True, False, False])))
    assert load_samples(tmp_path / "samples.npz", task).certain.tolist() == [False, False, True]
    older = samples(teacher_probs=np.array([[0.0, 1.0], [0.4, 0.6], [0.999, 0.001]]))
    np.savez(tmp_path / "samples.npz", **older)
    assert load_samples(tmp_path / "samples.npz", task).certain.tolist() == [False, False, True]


def test_samples_beyond_the_limit_are_the_oldest(task, tmp_path):
    np.savez(tmp_path / "samples.npz", **samples())
    short = task.model_copy(update={"training": TrainingSettings(keep_samples=2)})
    assert load_samples(tmp_path / "samples.npz", short).order.tolist() == [20, 30]


def test_samples_that_are_absent_are_none(task, tmp_path):
    assert len(load_samples(tmp_path / "samples.npz", task)) == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weight": None}, "lacks weight"),
        ({"weight": np.array([1.0, 0.0, 1.0])}, "positive"),
        ({"weight": np.array([1.0, np.nan, 1.0])}, "positive"),
        ({"weight": np.ones(2)}, "weight has shape"),
        ({"order": np.ones((3, 1))}, "order has shape"),
        ({"certain": np.ones(2, bool)}, "certain has shape"),
        ({"certain": np.ones(3)}, "certain has dtype float64"),
        ({"teacher_probs": PROBS[:, :1]}, "teacher_probs has shape"),
        ({"teacher_probs": PROBS * 2}, "sum to 1"),
        ({"teacher_probs": PROBS * np.nan}, "finite probabilities"),
        ({"teacher_probs": PROBS.astype(np.int64)}, "finite probabilities"),
        ({"x": np.zeros((3, 4), np.uint8)}, "x has shape"),
    ],
)
def test_samples_that_do_not_fit_are_refused(task, tmp_path, changes, said):
    np.savez(tmp_path / "samples.npz", **samples(**changes))
    with pytest.raises(SampleError, match=said):
        load_samples(tmp_path / "samples.npz", task)
