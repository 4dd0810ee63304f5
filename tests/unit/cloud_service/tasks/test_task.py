import inspect
import subprocess
import sys

import pytest
from pydantic import ValidationError

from cloud_service.tasks.task import GateRules, TaskDefinition, TrainingSettings, load_entry
from shared.errors import SettingsError

DIGITS = {
    "name": "digits",
    "labels": ["a", "b"],
    "input_shape": [8, 8],
    "input_dtype": "uint8",
    "teacher": "teacher.onnx",
    "base_data": "base.npz",
}


def test_task_of_the_settings_file_has_defaults_for_the_rest():
    task = TaskDefinition.model_validate(DIGITS)
    assert task.student == "cloud_service.tasks.networks:TinyMlp"
    assert task.training == TrainingSettings()
    assert task.input.shape == (8, 8)
    assert task.input.dtype == "uint8"


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ["a", "a"]},
        {"labels": ["a"]},
        {"input_shape": [8, 0]},
        {"input_dtype": "object"},
        {"student": "no colon"},
        {"colour": "red"},
        {"training": {"upload_share": 1.0}},
        {"training": {"offload_floor": 0.3, "offload_budget": 0.2}},
        {"training": {"gate": {"field_tolerance": 2.0}}},
    ],
)
def test_task_with_an_impossible_value_is_refused(change):
    with pytest.raises(ValidationError):
        TaskDefinition.model_validate(DIGITS | change)


def test_task_is_frozen():
    task = TaskDefinition.model_validate(DIGITS)
    with pytest.raises(ValidationError):
        task.name = "other"


@pytest.mark.parametrize("model", [TaskDefinition, TrainingSettings, GateRules])
def test_every_setting_is_documented(model):
    text = inspect.cleandoc(model.__doc__)
    assert [name for name in model.model_fields if f"\n    {name}: " not in text] == []


def test_task_is_importable_without_torch():
    code = "import sys, cloud_service.tasks.task, cloud_service.tasks.data; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_entry_is_loaded():
    assert load_entry("cloud_service.tasks.networks:TinyMlp", setting="student").__name__ == "TinyMlp"


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("no_such_module:f", "cannot import no_such_module"),
        ("cloud_service.tasks.task:nothing", "nothing callable named nothing"),
        ("cloud_service.tasks.task:Fraction2", "nothing callable"),
    ],
)
def test_entry_that_does_not_exist_names_the_setting(entry, said):
    with pytest.raises(SettingsError, match=said) as caught:
        load_entry(entry, setting="tasks.digits.student")
    assert "tasks.digits.student" in str(caught.value)
