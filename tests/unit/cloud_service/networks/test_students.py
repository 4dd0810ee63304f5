import sys
from pathlib import Path

import pytest
import torch

from cloud_service.networks.own import in_blocks
from cloud_service.networks.students import open_student
from cloud_service.tasks.task import TaskDefinition
from cloud_service.training.macs import count_parameters
from shared.errors import SettingsError


def task(student, shape, **more):
    return TaskDefinition(
        name="t", labels=("a", "b", "c"), input_shape=shape, input_dtype="uint8", student=student,
        teacher=Path("t.onnx"), base_data=Path("b.npz"), **more,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("edgeloop:resnet8", (12, 12, 3)),
        ("edgeloop:resnet8", (9, 13)),
        ("edgeloop:ds-cnn", (12, 12, 1)),
        ("edgeloop:cnn1d", (40, 6)),
        ("edgeloop:cnn1d", (40,)),
        ("cloud_service.tasks.networks:TinyMlp", (8, 8)),
    ],
)
def test_student_gives_logits_and_embedding(name, shape):
    logits, embedding = open_student(task(name, shape))(torch.zeros((2, *shape), dtype=torch.uint8))
    assert logits.shape == (2, 3)
    assert embedding.shape[0] == 2
    assert not any(isinstance(layer, torch.nn.ReLU6) for layer in open_student(task(name, shape)).modules())


def test_width_changes_channels_in_blocks_of_eight():
    wide, narrow = (open_student(task({"network": "edgeloop:resnet8", "width": w}, (8, 8))) for w in (1.0, 0.5))
    assert count_parameters(narrow) < 0.35 * count_parameters(wide)
    assert [in_blocks(n) for n in (1, 8, 13, 20)] == [8, 8, 16, 16]


def test_own_weights_are_taken_and_the_head_over_other_labels_begins_anew(tmp_path, caplog):
    torch.manual_seed(0)
    first = open_student(task("edgeloop:cnn1d", (16, 2)))
    state = first.state_dict()
    state["head.weight"] = torch.zeros(7, 64)
    torch.save(state, tmp_path / "w.pt")
    second = open_student(task({"network": "edgeloop:cnn1d", "weights": tmp_path / "w.pt"}, (16, 2)))
    assert torch.equal(first.state_dict()["body.layers.0.weight"], second.state_dict()["body.layers.0.weight"])
    assert "head.weight" in caplog.text


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"other": torch.zeros(3, 3)}, tmp_path / "w.pt")
    with pytest.raises(SettingsError, match="nothing in"):
        open_student(task({"network": "edgeloop:cnn1d", "weights": tmp_path / "w.pt"}, (16, 2)))


@pytest.mark.parametrize(
    ("student", "shape", "said"),
    [
        ("edgeloop:resnet9", (8, 8), "known: cnn1d, ds-cnn, resnet8"),
        ("edgeloop:cnn1d", (8, 8, 3), "takes \\[time\\]"),
        ("edgeloop:resnet8", (40,), "takes \\[height, width\\]"),
        ({"network": "edgeloop:cnn1d", "input_size": 32}, (40, 2), "leave it out"),
        ("timm:anything", (8, 8, 4), "1 or 3 channels"),
        ("builtins:len", (8, 8), "builtins:len"),
    ],
)
def test_student_that_cannot_be_is_refused(student, shape, said):
    with pytest.raises((SettingsError, TypeError), match=said if student != "builtins:len" else None):
        open_student(task(student, shape))


@pytest.mark.skipif("timm" in sys.modules, reason="timm is installed and loaded here")
def test_absent_zoo_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SettingsError, match=r"edgeloop\[zoo\]"):
        open_student(task("timm:mobilenetv3_small_100", (32, 32, 3)))
