import numpy as np
import pytest

from cloud_service.errors import TeacherError
from cloud_service.teacher.choice import choose
from cloud_service.teacher.conversion import REQUESTS, ConversionRequest, convert
from cloud_service.teacher.record import FLOAT, INT8, read_record
from cloud_service.teacher.settings import Backend
from shared.errors import SettingsError
from tests.sim import teachers
from tests.sim.bundles import linear_model, weights

HERE = {"processor": "this one"}


def convert_in(folder, teacher):
    task = teachers.write_task(folder, teacher)
    place = folder / "place"
    place.mkdir(exist_ok=True)
    return convert(ConversionRequest(task, task.teacher[0], HERE), place), place


def test_onnx_file_is_held_against_its_int8_form_and_the_choice_recorded(tmp_path):
    record, place = convert_in(tmp_path, {"model": str(tmp_path / "model.onnx"), "max_drop": 0.1, "check_samples": 20})
    assert [one.backend for one in record.measured] == [Backend.ONNXRUNTIME, Backend.INT8]
    assert [one.agreement for one in record.measured] == [1.0, 1.0]
    assert [one.accuracy for one in record.measured] == [1.0, 1.0]
    assert all(set(one.us_per_sample) == {1, 8} for one in record.measured)
    assert record.choice == choose(record.measured, max_drop=0.1, checked=20)
    assert record.checked == 20
    assert read_record(place, HERE) == record
    assert (place / INT8).exists() == (record.choice.backend is Backend.INT8)


def test_int8_form_that_changes_answers_is_not_taken_unless_asked_for(tmp_path):
    matrix = weights(64, 10)
    matrix[0, 0] *= 1000.0  # its logit sets the range of all: the others vanish in it
    (tmp_path / "loud.onnx").write_bytes(linear_model(matrix))
    model = str(tmp_path / "loud.onnx")
    record, place = convert_in(tmp_path, {"model": model})
    assert record.choice.backend is Backend.ONNXRUNTIME
    assert record.file == ""
    assert not (place / INT8).exists()
    assert record.measured[1].agreement == pytest.approx(0.1)
    forced, place = convert_in(tmp_path, {"model": model, "backend": "onnxruntime-int8"})
    assert (forced.choice.backend, forced.file) == (Backend.INT8, INT8)
    assert "more than max_drop" in forced.choice.reason
    assert (place / INT8).exists()


def test_torch_model_is_exported_and_only_what_was_chosen_kept(tmp_path):
    file = teachers.save_weights(tmp_path / "w.pt")
    record, place = convert_in(tmp_path, {"model": teachers.FACTORY, "weights": file, "backend": "onnxruntime"})
    assert [one.backend for one in record.measured] == [Backend.TORCH, Backend.ONNXRUNTIME]
    assert [one.agreement for one in record.measured] == [1.0, 1.0]
    assert (record.choice.backend, record.file) == (Backend.ONNXRUNTIME, FLOAT)
    assert sorted(path.name for path in place.iterdir()) == ["choice.json", FLOAT]


def test_torch_model_that_cannot_be_exported_stays_in_torch(tmp_path):
    file = teachers.save_weights(tmp_path / "w.pt")
    record, _ = convert_in(tmp_path, {"model": "tests.sim.teachers:NotExportable", "weights": file})
    assert record.choice.backend is Backend.TORCH
    assert record.measured[-1].backend is Backend.ONNXRUNTIME
    assert "cannot be exported" in record.measured[-1].refused
    assert "\x1b" not in record.measured[-1].refused


def test_backend_that_was_asked_for_and_does_not_run_is_an_error(tmp_path):
    (tmp_path / "nan.onnx").write_bytes(linear_model(weights(64, 10), nan=True))
    with pytest.raises(TeacherError, match=r"no backend runs .*onnxruntime-int8"):
        convert_in(tmp_path, {"model": str(tmp_path / "nan.onnx"), "backend": "onnxruntime-int8"})


def test_source_that_does_not_run_is_an_error(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"broken")
    with pytest.raises(TeacherError, match=r"broken\.onnx does not run"):
        convert_in(tmp_path, {"model": str(tmp_path / "broken.onnx")})
    (tmp_path / "other.onnx").write_bytes(linear_model(weights(16, 10), shape=(4, 4)))
    with pytest.raises(TeacherError, match="does not run"):
        convert_in(tmp_path, {"model": str(tmp_path / "other.onnx")})


def test_source_whose_answers_are_not_finite_is_an_error(tmp_path):
    for value in (np.nan, 3e38):  # the second overflows to +inf
        matrix = np.full((64, 10), value, np.float32)
        (tmp_path / "odd.onnx").write_bytes(linear_model(matrix))
        with pytest.raises(TeacherError, match="not finite"):
            convert_in(tmp_path, {"model": str(tmp_path / "odd.onnx")})


def test_conversion_without_base_data_names_it(tmp_path):
    task = teachers.write_task(tmp_path, str(tmp_path / "model.onnx"))
    task.base_data.unlink()
    with pytest.raises(SettingsError, match="base_data"):
        convert(ConversionRequest(task, task.teacher[0], HERE), tmp_path)


def test_request_survives_the_way_to_the_child(tmp_path):
    task = teachers.write_task(tmp_path, {"model": teachers.FACTORY, "weights": "w.pt"})
    request = ConversionRequest(task, task.teacher[0], HERE)
    assert REQUESTS.validate_json(REQUESTS.dump_json(request)) == request
