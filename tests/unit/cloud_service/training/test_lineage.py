from pathlib import Path

import numpy as np
import pytest

from cloud_service.networks.settings import StudentSettings
from cloud_service.tasks.data import BaseData, load_base
from cloud_service.tasks.task import TaskDefinition
from cloud_service.training.lineage import describe_lineage, differences, flatten


@pytest.fixture
def own(tmp_path, monkeypatch, task):
    """The task with its own student in a file, and its own copy of the base data."""
    (tmp_path / "own_student.py").write_text("def student(task): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    base = tmp_path / "base.npz"
    base.write_bytes(task.base_data.read_bytes())
    return task.model_copy(update={"student": "own_student:student", "base_data": base})


NONE = np.zeros(0, np.int64)


def lineage(task, base=BaseData(NONE, NONE, NONE, NONE), **changes):  # noqa: B008  # frozen
    given = {"samples": task.base_data.parent / "samples.npz", "newest_upload": None, "parent": None} | changes
    return describe_lineage(task, base, **given)


def test_lineage_of_the_same_request_is_the_same(own):
    assert differences(lineage(own), lineage(own)) == []


def test_lineage_names_what_makes_a_run_reproducible(own):
    found = lineage(own)
    assert set(found["files_sha256"]) == {"base_data", "teacher"}
    assert found["settings"]["steps"] == 100
    assert (found["seed"], found["parent"], found["student"]) == (0, None, "own_student:student")
    assert {"python", "torch", "onnxruntime", "numpy", "edgeloop"} <= set(found["versions"])
    assert set(found["code_sha256"]) == {"own_student"}


def test_lineage_has_the_hash_of_what_a_function_gives(own, tmp_path):
    (tmp_path / "own_data.py").write_text(
        f"import numpy as np\ndef load(task):\n    return dict(np.load({str(own.base_data)!r}))\n"
    )
    given = own.model_copy(update={"base_data": Path("own_data:load")})
    samples = tmp_path / "samples.npz"
    before = lineage(given, load_base(given), samples=samples)
    with np.load(own.base_data) as file:
        arrays = dict(file)
    arrays["x"][0, 0, 0] += 1
    np.savez(own.base_data, **arrays)
    found = differences(before, lineage(given, load_base(given), samples=samples))
    assert [line.partition(":")[0] for line in found] == ["data_sha256", "files_sha256.base_data"]


def test_lineage_has_the_code_of_a_teacher_of_ones_own(own):
    file = own.teacher[0].model
    taught = TaskDefinition.model_validate(
        own.model_dump() | {"teacher": {"model": "own_student:student", "weights": file}, "student": "edgeloop:resnet8"}
    )
    assert set(lineage(taught)["code_sha256"]) == {"own_student"}


def changed_setting(task: TaskDefinition) -> TaskDefinition:
    return task.model_copy(update={"training": task.training.model_copy(update={"steps": 101})})


def changed_seed(task: TaskDefinition) -> TaskDefinition:
    return task.model_copy(update={"training": task.training.model_copy(update={"seed": 7})})


def changed_data(task: TaskDefinition) -> TaskDefinition:
    task.base_data.write_bytes(task.base_data.read_bytes() + b"\0")
    return task


def changed_code(task: TaskDefinition) -> TaskDefinition:
    (task.base_data.parent / "own_student.py").write_text("def student(task): return 1\n")
    return task


def new_samples(task: TaskDefinition) -> TaskDefinition:
    np.savez(task.base_data.parent / "samples.npz", x=np.zeros(1))
    return task


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (changed_setting, {"settings.steps"}),
        (changed_seed, {"seed", "settings.seed"}),
        (changed_data, {"data_sha256", "files_sha256.base_data"}),
        (changed_code, {"code_sha256.own_student"}),
        (new_samples, {"data_sha256", "files_sha256.samples"}),
    ],
)
def test_whatever_changes_the_model_changes_the_lineage_and_is_named(own, change, names):
    before = lineage(own)
    found = differences(before, lineage(change(own)))
    assert {line.partition(":")[0] for line in found} == names


def test_entry_of_one_side_alone_differs():
    assert differences({"a": {"b": 1}}, {}) == ["a.b: 1 and absent"]
    assert differences({"a": None}, {}) == ["a: None and absent"]


def test_base_data_may_be_a_folder_of_files(own, tmp_path):
    folder = tmp_path / "pictures"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "1.png").write_bytes(b"one")
    task = own.model_copy(update={"base_data": folder})
    first = lineage(task)
    (folder / "a" / "1.png").rename(folder / "a" / "2.png")
    assert lineage(task)["files_sha256"]["base_data"] != first["files_sha256"]["base_data"]


def test_module_that_is_not_there_is_left_to_whoever_imports_it(own):
    assert lineage(own.model_copy(update={"student": "absent.package:student"}))["code_sha256"] == {}


def test_base_data_of_a_function_is_told_by_its_code_and_what_it_gave(own):
    found = lineage(own.model_copy(update={"student": "edgeloop:resnet8", "base_data": Path("own_student:student")}))
    assert set(found["code_sha256"]) == {"own_student"}
    assert len(found["files_sha256"]["base_data"]) == 64


def test_weights_of_a_student_are_told_by_their_hash_not_their_place(own, tmp_path):
    found = []
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).write_bytes(b"weights")
        found.append(
            lineage(
                own.model_copy(update={"student": StudentSettings(network="edgeloop:resnet8", weights=tmp_path / name)})
            )
        )
    assert differences(*found) == []
    assert "student" in found[0]["files_sha256"]
    (tmp_path / "b.pt").write_bytes(b"others")
    settings = StudentSettings(network="edgeloop:resnet8", weights=tmp_path / "b.pt")
    changed = lineage(own.model_copy(update={"student": settings}))
    assert [line.partition(":")[0] for line in differences(found[0], changed)] == [
        "data_sha256", "files_sha256.student",
    ]  # fmt: skip


def test_own_package_is_told_by_its_version(task):
    assert lineage(task)["code_sha256"] == {}


def test_flatten_gives_the_leaves():
    assert dict(flatten("", {"a": {"b": 1, "c": [2]}, "d": None})) == {"a.b": 1, "a.c": [2], "d": None}
