"""What training does beside its plain course of steps: stop, go on, start elsewhere, fail clearly, let labels win."""

import logging

import numpy as np
import pytest
import torch
from torch import nn

from cloud_service.errors import ModelError
from cloud_service.tasks.learning import LearningSettings
from cloud_service.tasks.networks import TinyMlp
from cloud_service.teacher.model import Outputs
from cloud_service.training import distill
from cloud_service.training.loss import distillation_loss
from cloud_service.training.pool import Pool, make_pool
from cloud_service.training.progress import silent
from shared.errors import SettingsError
from tests.unit.cloud_service.training.conftest import CLASSES, RowTeacher, pictures

NO_UPLOADS = (np.zeros((0, 8, 8), np.uint8), np.zeros(0, np.int64))


class PowerCut(BaseException):
    """What a killed process sees of it: nothing after this line runs."""


def ask(x):
    with torch.no_grad():
        return RowTeacher()(torch.from_numpy(x)).numpy()


def taught(task, *, count=200, teacher=ask, uploads=NO_UPLOADS, certain=None):
    return make_pool(task, teacher, base=pictures(count, seed=1), uploads=uploads, seed=0, certain=certain)


def but(task, **changes):
    """The task with other training settings."""
    return task.model_copy(update={"training": task.training.model_copy(update=changes)})


def same(left, right):
    return all(torch.equal(value, right.state_dict()[name]) for name, value in left.state_dict().items())


def train(task, pool, **more):
    return distill.train(task, pool, folds=np.zeros(0, np.int64), progress=silent, **more)


@pytest.mark.parametrize("learning", [LearningSettings(), LearningSettings(patience=20)])
def test_training_that_was_cut_off_goes_on_and_ends_the_same(task, tmp_path, learning):
    long = but(task, steps=600, batch=16, learning=learning)
    pool, file = taught(long), tmp_path / "saved.pt"
    whole = train(long, pool).students[-1]
    seen = []

    def cut(step):
        seen.append(step.done)
        if step.done >= 550:
            raise PowerCut

    with pytest.raises(PowerCut):
        distill.train(long, pool, folds=np.zeros(0, np.int64), progress=cut, file=file)
    seen.clear()
    resumed = distill.train(
        long, pool, folds=np.zeros(0, np.int64), progress=lambda step: seen.append(step.done), file=file
    )
    assert seen[0] > 500  # not from the beginning
    assert same(whole, resumed.students[-1])
    assert not file.exists()


def test_training_stops_when_held_out_agreement_rises_no_more(task):
    patient = but(task, steps=400, learning=LearningSettings(patience=2))
    trained = train(patient, taught(task))
    assert trained.steps < 400
    assert trained.steps % 20 == 0
    assert trained.agreement > 0.9


def test_best_student_is_kept_not_the_last(task):
    # Two full batches of steps at a rate that wrecks what was learnt: the best check is not the last one.
    wild = but(task, steps=60, learning_rate=3.0, learning=LearningSettings(patience=20))
    pool = taught(task)
    trained = train(wild, pool)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(task.training.seed))
    held = pool.views[order[:20]].numpy().astype(np.uint8)
    agreement = (distill.answer(trained.students[-1], held).argmax(1) == ask(held).argmax(1)).mean()
    assert agreement == pytest.approx(trained.agreement)


def test_held_out_samples_are_not_trained_on(task):
    patient = but(task, steps=20, learning=LearningSettings(patience=1))
    pool = taught(task)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(task.training.seed))
    poisoned = pool.views.clone()
    poisoned.view(2, 200, 8, 8)[:, order[:20]] = torch.nan
    broken = Pool(poisoned, pool.teacher_logits, pool.labels, pool.uploaded)
    trained = train(patient, broken)  # one NaN in a batch would make the loss NaN
    assert all(torch.isfinite(value).all() for value in trained.students[-1].state_dict().values())


def test_folds_uploads_do_not_choose_the_student_that_is_judged_on_them(task):
    # Of a length and rate where the best check is not the last: the samples that choose are seen in what is kept.
    patient = but(task, steps=60, learning_rate=0.5, learning=LearningSettings(patience=20))
    x, y = pictures(60, seed=5)
    folds = np.arange(60) % 2
    pool = taught(task, uploads=(x, y))
    other = pool.teacher_logits.clone()
    other.view(2, 260, CLASSES)[:, 200:][:, folds == 0] = other[0]  # what only the first fold's student is judged by
    changed = Pool(pool.views, other, pool.labels, pool.uploaded)
    left, right = (distill.train(patient, each, folds=folds, progress=silent).students for each in (pool, changed))
    assert same(left[0], right[0])
    assert not same(left[1], right[1])


def test_patience_needs_something_to_hold_out(task):
    patient = but(task, learning=LearningSettings(patience=1))
    with pytest.raises(SettingsError, match="at least 10 base samples"):
        train(patient, taught(patient, count=9))


def test_loss_that_is_not_finite_ends_the_training_with_what_to_do(task):
    pool = taught(task)
    pool.views[:, 0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"loss is nan after step 1 .*lower learning_rate \(now 0\.01\)"):
        train(task, pool)


def test_student_starts_from_the_weights_it_is_given_and_the_folds_do_not(task):
    torch.manual_seed(99)
    given = TinyMlp(task).state_dict()
    gentle = but(task, steps=1, learning_rate=1e-9)
    uploads = pictures(20, seed=5)
    pool = taught(task, uploads=uploads)
    students = distill.train(gentle, pool, folds=np.arange(20) % 2, progress=silent, start=given).students
    assert len(students) == 3
    assert torch.allclose(students[2].state_dict()["head.weight"], given["head.weight"], atol=1e-6)
    assert not torch.allclose(students[0].state_dict()["head.weight"], given["head.weight"], atol=1e-2)


class Hungry(TinyMlp):
    """Fits into memory with 40 samples a step."""

    def forward(self, x):
        if x.shape[-3] > 40:
            raise MemoryError
        return super().forward(x)


def test_batch_that_does_not_fit_is_halved_for_the_whole_training(task, caplog):
    pool = taught(task)
    hungry = but(task.model_copy(update={"student": f"{__name__}:Hungry"}), batch=64, steps=3)
    with caplog.at_level(logging.WARNING):
        trained = train(hungry, pool)
    assert trained.batch == 32
    assert "starting again with 32" in caplog.text


def test_certain_label_takes_the_place_of_a_teacher_that_contradicts_it(task):
    x, y = pictures(4, seed=9)
    labels = np.array([y[0], (y[1] + 1) % CLASSES, (y[2] + 1) % CLASSES, y[3]])
    certain = np.array([True, True, False, True])
    pool = taught(task, count=3, uploads=(x, labels), certain=certain)
    plain = taught(task, count=3, uploads=(x, labels))
    views = len(pool.views) // 7
    for view in range(views):
        row = pool.teacher_logits[view * 7 + 4]
        for temperature in (1.0, 2.0, 20.0):
            soft = torch.softmax(row / temperature, 0)
            assert soft[labels[1]] == 1.0
        # A label that nobody is sure of, and one that the teacher shares: the teacher's own answer.
        for upload in (0, 2, 3):
            at = view * 7 + 3 + upload
            assert torch.equal(pool.teacher_logits[at], plain.teacher_logits[at])
    assert pool.labels[3:].tolist() == labels.tolist()


def test_loss_of_a_certain_label_is_finite_and_pulls_towards_it(task):
    x, y = pictures(1, seed=9)
    label = (y + 1) % CLASSES
    pool = taught(task, count=2, uploads=(x, label), certain=np.array([True]))
    student = torch.zeros((1, CLASSES), requires_grad=True)
    parts = distillation_loss(student, pool.teacher_logits[2:3], torch.from_numpy(label), temperature=2.0,
                                      alpha=1.0, beta=1.0)  # fmt: skip
    parts.total.backward()
    assert torch.isfinite(parts.total)
    assert student.grad.argmin() == label.item()


def test_teacher_of_other_labels_is_refused_before_it_answers_everything(task):
    asked = []

    def other(x):
        asked.append(len(x))
        return np.zeros((len(x), CLASSES + 1), np.float32)

    with pytest.raises(SettingsError, match=r"answers of shape \[5\]; the task has 4 labels"):
        taught(task, count=1500, teacher=other)
    assert len(asked) == 1


def test_teacher_whose_answers_are_not_finite_is_refused(task):
    with pytest.raises(ModelError, match="not finite for 400 of 400 samples"):
        taught(task, teacher=lambda x: np.full((len(x), CLASSES), np.nan, np.float32))


def with_embedding(x):
    logits = ask(x)
    return Outputs(logits, np.concatenate([logits, logits**2], axis=1))


def test_feature_loss_brings_the_student_nearer_to_the_teachers_embedding(task):
    pool = taught(task, teacher=with_embedding)
    assert pool.embeddings.shape == (400, 2 * CLASSES)

    def fit(weight):
        """R² of the teacher's embedding by a linear map of the student's."""
        student = train(but(task, steps=150, learning=LearningSettings(feature_weight=weight)), pool).students[0]
        with torch.no_grad():
            mine = student(pool.views[:200])[1]
        theirs = torch.nn.functional.normalize(pool.embeddings[:200], dim=1)
        mapped = mine @ torch.linalg.lstsq(mine, theirs, driver="gelsd").solution
        return 1.0 - float(((mapped - theirs) ** 2).sum() / ((theirs - theirs.mean(0)) ** 2).sum())

    assert fit(5.0) > fit(0.0)


def test_feature_loss_without_a_teachers_embedding_says_what_is_missing(task):
    with pytest.raises(SettingsError, match="needs a teacher that gives an embedding"):
        train(but(task, learning=LearningSettings(feature_weight=1.0)), taught(task))


def test_fine_tuning_trains_in_place_for_its_steps_and_repeats(task):
    pool = taught(task)
    first, second = TinyMlp(task), TinyMlp(task)
    second.load_state_dict(first.state_dict())
    seen = []
    for student in (first, second):
        distill.fine_tune(
            student, pool, task.training, steps=50, learning_rate=1e-2, on_step=lambda done, _: seen.append(done)
        )
    assert seen[-1] == 50
    assert same(first, second)
    assert not first.training
    x = pool.views[:200].numpy().astype(np.uint8)
    assert (distill.answer(first, x).argmax(1) == ask(x).argmax(1)).mean() > 0.9


def test_fine_tuning_for_no_steps_leaves_the_student_alone(task):
    student = TinyMlp(task)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    distill.fine_tune(student, taught(task), task.training, steps=0, learning_rate=1e-2)
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())


def test_fine_tuning_does_not_show_a_fold_its_own_uploads(task):
    x, y = pictures(6, seed=5)
    pool = taught(task, uploads=(x, y))
    pool.views.view(2, 206, 8, 8)[:, 200:203] = torch.nan
    student = TinyMlp(task)
    unseen = np.array([True, True, True, False, False, False])
    distill.fine_tune(student, pool, task.training, steps=20, learning_rate=1e-2, without=unseen)
    assert all(torch.isfinite(value).all() for value in student.state_dict().values())
    with pytest.raises(ModelError):
        distill.fine_tune(student, pool, task.training, steps=20, learning_rate=1e-2)


class Normed(nn.Module):
    """A student with batch statistics, which training must also take up again."""

    def __init__(self, task):
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(64), nn.Linear(64, len(task.labels))

    def forward(self, x):
        embedding = self.norm(x.flatten(1).float())
        return self.head(embedding), embedding


def test_student_with_batch_statistics_goes_on_and_ends_the_same(task, tmp_path):
    normed = but(task.model_copy(update={"student": f"{__name__}:Normed"}), steps=300, batch=8)
    pool = taught(task)
    whole = train(normed, pool).students[-1]

    def cut(step):
        if step.done >= 280:
            raise PowerCut

    with pytest.raises(PowerCut):
        distill.train(normed, pool, folds=np.zeros(0, np.int64), progress=cut, file=tmp_path / "saved.pt")
    assert same(whole, train(normed, pool, file=tmp_path / "saved.pt").students[-1])
