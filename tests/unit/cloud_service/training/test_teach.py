"""A teacher from labels: learnt, adapted, cut off, refused."""

import numpy as np
import pytest
import torch
from torch import nn

from cloud_service.errors import ModelError, TeacherError
from cloud_service.tasks.learning import TeachSettings
from cloud_service.tasks.task import TaskDefinition
from cloud_service.teacher.offline import open_teacher
from cloud_service.training import pipeline, teach
from cloud_service.training.progress import silent
from cloud_service.training.request import SAMPLES, TrainingRequest
from cloud_service.training.results import read_result
from shared.errors import SettingsError
from tests.unit.cloud_service.training.conftest import CLASSES, pictures

NETWORK = f"{__name__}:Rows"
QUICK = TeachSettings(network=NETWORK, steps=200, batch=32, learning_rate=1e-2)


class PowerCut(BaseException):
    """What a killed process sees of it: nothing after this line runs."""


class Rows(nn.Module):
    """A body with batch statistics and a head over the task's labels."""

    def __init__(self, task):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU())
        self.head = nn.Linear(24, len(task.labels))

    def forward(self, x):
        embedding = self.body(x.flatten(1).float() / 8.0 - 1.0)
        return self.head(embedding), embedding


def asking(task, settings=QUICK, **changes) -> TrainingRequest:
    return TrainingRequest(task=task.model_copy(update={"teach": settings, **changes}))


def test_teacher_learns_the_labels_and_can_be_named_as_the_tasks_teacher(task, tmp_path):
    steps = []
    taught = teach.teach(asking(task), tmp_path, steps.append)
    assert taught.held_out_accuracy > 0.95
    assert taught.base_accuracy > 0.95
    assert taught.parameters == sum(value.numel() for value in Rows(task).parameters())
    assert (steps[-1].stage, steps[-1].done) == ("teach", 200)
    named = TaskDefinition.model_validate(
        task.model_dump() | {"teacher": {"model": taught.network, "weights": taught.weights}}
    )
    x, y = pictures(50, seed=8)
    assert (open_teacher(named)(x).argmax(1) == y).mean() > 0.95


def test_teaching_runs_as_a_stage_of_its_own(task, tmp_path):
    pipeline.run_stage(asking(task), tmp_path, silent, stage="teach")
    taught = read_result(tmp_path, "teach", teach.Taught)
    assert taught.steps == 200
    assert (tmp_path / "teacher.pt").exists()


def test_teaching_needs_no_teacher_yet(task, tmp_path):
    absent = TaskDefinition.model_validate(task.model_dump() | {"teacher": tmp_path / "absent.onnx"})
    assert teach.teach(asking(absent), tmp_path, silent).steps == 200


def test_teaching_that_was_cut_off_goes_on_and_ends_the_same(task, tmp_path):
    whole, cut_off = tmp_path / "whole", tmp_path / "cut"
    teach.teach(asking(task), whole, silent)

    def cut(step):
        if step.done >= 150:
            raise PowerCut

    with pytest.raises(PowerCut):
        teach.teach(asking(task), cut_off, cut)
    seen = []
    teach.teach(asking(task), cut_off, lambda step: seen.append(step.done))
    assert seen[0] > 100
    first, second = (torch.load(folder / "teacher.pt", weights_only=True) for folder in (whole, cut_off))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not (cut_off / teach.SAVED).exists()


def test_adapted_teacher_keeps_the_body_that_fits_and_begins_its_head_anew(task, tmp_path):
    grown = task.model_copy(update={"labels": tuple("abcdefg")})
    torch.manual_seed(5)
    source = Rows(grown)
    torch.save(source.state_dict(), tmp_path / "given.pt")
    frozen = QUICK.model_copy(update={"weights": tmp_path / "given.pt", "body_rate": 0.0})
    taught = teach.teach(asking(task, frozen), tmp_path, silent)
    assert set(taught.begun_anew) == {"head.weight", "head.bias"}
    after = torch.load(tmp_path / "teacher.pt", weights_only=True)
    kept = {name: value for name, value in source.state_dict().items() if name.startswith("body")}
    assert all(torch.equal(after[name], value) for name, value in kept.items())  # batch statistics, too
    assert taught.held_out_accuracy > 0.6


def test_body_learns_at_its_share_of_the_rate(task, tmp_path):
    torch.manual_seed(5)
    source = Rows(task)
    torch.save(source.state_dict(), tmp_path / "given.pt")

    def moved(rate):
        settings = QUICK.model_copy(update={"weights": tmp_path / "given.pt", "body_rate": rate, "steps": 10})
        teach.teach(asking(task, settings), tmp_path / str(rate), silent)
        after = torch.load(tmp_path / str(rate) / "teacher.pt", weights_only=True)
        return float((after["body.0.weight"] - source.state_dict()["body.0.weight"]).abs().max())

    assert 0.0 < moved(0.01) < 0.1 * moved(1.0)


def test_labels_of_people_are_learnt_too(task, tmp_path):
    x, y = pictures(40, seed=6)
    wrong = np.roll(np.eye(CLASSES, dtype=np.float32)[y], 1, axis=1)
    probabilities = np.where(np.arange(40)[:, None] < 25, wrong, np.float32(1 / CLASSES))
    certain = np.arange(40) < 25
    np.savez(
        tmp_path / SAMPLES, x=x, teacher_probs=probabilities, weight=np.ones(40), order=np.arange(40), certain=certain
    )
    assert teach.teach(asking(task), tmp_path, silent).field_labels == 25


def test_held_out_part_has_every_label_and_leaves_every_label():
    labels = np.array([0] * 50 + [1] * 3 + [2] * 2)
    held = teach.hold_out(labels, 0.1, seed=0)
    assert np.bincount(labels[held]).tolist() == [5, 1, 1]
    assert np.array_equal(held, teach.hold_out(labels, 0.1, seed=0))
    assert not teach.hold_out(np.array([0, 0, 1]), 0.1, seed=0)[2]  # the only one of its label is learnt from


def test_teaching_stops_when_held_out_accuracy_rises_no_more(task, tmp_path):
    patient = QUICK.model_copy(update={"steps": 2000, "patience": 2})
    assert teach.teach(asking(task, patient), tmp_path, silent).steps < 2000


def test_weights_of_which_nothing_fits_are_refused(task, tmp_path):
    torch.save({"other": torch.zeros(3)}, tmp_path / "given.pt")
    with pytest.raises(TeacherError, match=r"nothing in .* fits"):
        teach.teach(asking(task, QUICK.model_copy(update={"weights": tmp_path / "given.pt"})), tmp_path, silent)


def test_task_without_a_teacher_to_train_says_what_to_add(task, tmp_path):
    with pytest.raises(SettingsError, match=r"add \[tasks\.rows\.teach\]"):
        teach.teach(TrainingRequest(task=task), tmp_path, silent)


def test_loss_that_is_not_finite_ends_the_teaching_with_what_to_do(task, tmp_path):
    wild = QUICK.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(ModelError, match=r"lower teach\.learning_rate \(now 1e\+30\)"):
        teach.teach(asking(task, wild), tmp_path, silent)


@pytest.mark.parametrize("part", ["y", "y_eval"])
def test_base_data_of_one_label_is_refused_before_anything_is_trained(task, tmp_path, part):
    with np.load(task.base_data) as base:
        arrays = dict(base)
    arrays[part] = np.full_like(arrays[part], 2)
    np.savez(tmp_path / "one.npz", **arrays)
    narrow = task.model_copy(update={"base_data": tmp_path / "one.npz"})
    with pytest.raises(SettingsError, match=r"'c': (there is )?nothing"):
        teach.teach(asking(narrow), tmp_path / "run", silent)
    with pytest.raises(SettingsError, match=r"'c': (there is )?nothing"):
        pipeline.run(TrainingRequest(task=narrow), tmp_path / "run", silent)


def test_label_without_a_base_sample_is_said(task, tmp_path, caplog):
    more = task.model_copy(update={"labels": tuple("abcde")})
    pipeline.run_stage(asking(more), tmp_path, silent, stage="teach")
    assert "has no sample of e" in caplog.text


class Shuffled(nn.Module):
    """Knows the rows, and calls each by the next one's name."""

    def forward(self, x):
        return torch.roll(x.float().mean(dim=2)[:, :CLASSES] * 2.0, 1, dims=1)


def test_teacher_whose_labels_are_in_another_order_is_refused(task, tmp_path):
    torch.save({}, tmp_path / "none.pt")
    globals()["make_shuffled"] = lambda task: Shuffled()
    wrong = TaskDefinition.model_validate(
        task.model_dump() | {"teacher": {"model": f"{__name__}:make_shuffled", "weights": tmp_path / "none.pt"}}
    )
    with pytest.raises(SettingsError, match=r"with 100% in another order \(a for d, b for a, c for b, d for c\)"):
        pipeline.run_stage(TrainingRequest(task=wrong), tmp_path / "run", silent, stage="distill")
