import inspect
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from cloud_service.settings import CloudSettings
from cloud_service.teacher.settings import Backend, Kind, Teachers, TeacherSettings
from shared.errors import SettingsError

TEACHERS = TypeAdapter(Teachers)
TASK = """
[tasks.digits]
labels = ["a", "b"]
input_shape = [8, 8]
input_dtype = "uint8"
base_data = "base.npz"
"""


def read(folder, text):
    (folder / "cloud.toml").write_text(TASK + text)
    return CloudSettings.read(folder / "cloud.toml", environ={}).tasks["digits"].teacher


def test_file_name_is_short_for_a_table(tmp_path):
    short, table = read(tmp_path, 'teacher = "t.onnx"'), read(tmp_path, '[tasks.digits.teacher]\nmodel = "t.onnx"')
    assert short == table == (TeacherSettings(model=str(tmp_path / "t.onnx")),)
    assert short[0].files == (tmp_path / "t.onnx",)
    assert TEACHERS.validate_python(Path("t.onnx")) == TEACHERS.validate_python(TeacherSettings(model="t.onnx"))


def test_array_of_tables_is_an_ensemble_whose_paths_are_below_the_settings_folder(tmp_path):
    one, other = read(
        tmp_path,
        '[[tasks.digits.teacher]]\nmodel = "a.onnx"\n'
        '[[tasks.digits.teacher]]\nmodel = "timm:resnet18"\nweights = "w.safetensors"\n'
        'share = 2.0\nbackend = "torch"\n',
    )
    assert one.model == str(tmp_path / "a.onnx")
    assert (other.model, other.files, other.share) == ("timm:resnet18", (tmp_path / "w.safetensors",), 2.0)
    assert other.backend is Backend.TORCH


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("teacher.onnx", Kind.ONNX),
        ("/srv/models/teacher.onnx", Kind.ONNX),
        ("package.module:make", Kind.FACTORY),
        ("timm:resnet18.a1_in1k", Kind.TIMM),
        ("torchvision:resnet18", Kind.TORCHVISION),
    ],
)
def test_kind_is_seen_from_the_models_name(model, kind):
    weights = None if kind is Kind.ONNX else Path("w.pt")
    assert TeacherSettings(model=model, weights=weights).kind is kind


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"model": "timm:resnet18"}, "needs weights"),
        ({"model": "a.b:make"}, "nothing is downloaded"),
        ({"model": "t.onnx", "weights": "w.pt"}, "leave weights out"),
        ({"model": "t.onnx", "backend": "torch"}, "leave backend out"),
        ({"model": "t.onnx", "backend": "tensorrt"}, "backend"),
        ({"model": "t.onnx", "temperature": 0}, "temperature"),
        ({"model": "t.onnx", "share": 0}, "share"),
        ({"model": "t.onnx", "threads": 0}, "threads"),
        ({"model": "t.onnx", "max_drop": 2}, "max_drop"),
        ({"model": "t.onnx", "augmentations": "no colon"}, "augmentations"),
        ({"model": ""}, "model"),
    ],
)
def test_impossible_teacher_is_refused_with_a_remedy(table, words):
    with pytest.raises(ValidationError, match=words):
        TEACHERS.validate_python(table)


def test_no_teacher_and_too_many_are_refused():
    for count in (0, 17):
        with pytest.raises(ValidationError):
            TEACHERS.validate_python([{"model": "t.onnx"}] * count)


def test_misspelt_key_of_a_teacher_names_the_right_one(tmp_path):
    with pytest.raises(SettingsError, match="did you mean 'weights'"):
        read(tmp_path, '[tasks.digits.teacher]\nmodel = "timm:x"\nweigths = "w.pt"\n')


def test_every_setting_of_a_teacher_is_documented():
    text = inspect.cleandoc(TeacherSettings.__doc__)
    assert [name for name in TeacherSettings.model_fields if f"\n    {name}: " not in text] == []
