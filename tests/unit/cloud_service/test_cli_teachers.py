import json

from typer.testing import CliRunner

from cloud_service.cli import app
from tests.sim import teachers
from tests.sim.bundles import LABELS, linear_model, weights


def write_settings(folder, teacher):
    teachers.write_task(folder, "model.onnx")
    (folder / "cloud.toml").write_text(
        f'data_dir = "data"\n[tasks.digits]\nlabels = {json.dumps(LABELS)}\ninput_shape = [8, 8]\n'
        f'input_dtype = "uint8"\nbase_data = "base.npz"\n{teacher}\n'
    )


def asked(folder, *arguments):
    done = CliRunner().invoke(app, ["teachers", "--config", str(folder / "cloud.toml"), *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_teachers_are_measured_shown_and_recorded_without_a_service(tmp_path):
    write_settings(tmp_path, 'teacher = "model.onnx"')
    shown = asked(tmp_path)
    assert "model.onnx" in shown
    assert "onnxruntime, cpu" in shown
    (one,) = json.loads(asked(tmp_path, "--json"))["items"]
    assert one["version"] == one["verdicts_name"]
    assert one["version"].startswith("model-onnx-")
    assert one["measured"][0]["us_per_sample"].keys() == {"1", "8"}
    assert len(list((tmp_path / "data" / "teachers").glob("*/choice.json"))) == 1


def test_members_of_an_ensemble_are_shown_with_the_version_that_verdicts_name(tmp_path):
    (tmp_path / "b.onnx").write_bytes(linear_model(weights(64, 10, shift=1)))
    table = '[[tasks.digits.teacher]]\nmodel = "model.onnx"\n[[tasks.digits.teacher]]\nmodel = "b.onnx"\n'
    write_settings(tmp_path, table + 'backend = "onnxruntime"')
    one, other = json.loads(asked(tmp_path, "--json"))["items"]
    assert one["verdicts_name"] == other["verdicts_name"]
    assert one["verdicts_name"].startswith("ensemble2-")
    assert other["choice"]["reason"] == "as set"
    assert "taken: as set" in asked(tmp_path)
