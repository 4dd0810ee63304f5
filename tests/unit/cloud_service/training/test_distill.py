import numpy as np
import pytest
import torch
from torch import nn

from cloud_service.teacher.offline import open_teacher
from cloud_service.training import distill
from cloud_service.training import pool as pool_module
from cloud_service.training.group import Group
from cloud_service.training.pool import Pool, assign_folds, make_pool, number_contents
from cloud_service.training.progress import silent


def test_pool_holds_the_teachers_answers_to_the_views_themselves(task):
    base = (np.full((3, 8, 8), 5, np.uint8), np.array([0, 1, 2]))
    uploads = (np.full((2, 8, 8), 9, np.uint8), np.array([3, 3]))
    pool = make_pool(task, open_teacher(task), base=base, uploads=uploads, seed=0)
    assert pool.views.shape == (2 * 5, 8, 8)
    assert torch.equal(pool.views[:5].byte(), torch.from_numpy(np.concatenate([base[0], uploads[0]])))
    assert pool.labels.tolist() == [0, 1, 2, 3, 3]
    assert pool.uploaded.tolist() == [False, False, False, True, True]
    expected = open_teacher(task)(pool.views.numpy().astype(np.uint8))
    assert np.allclose(pool.teacher_logits.numpy(), expected, atol=1e-5)


def test_pool_without_augmentation_has_one_view(task):
    plain = task.model_copy(update={"augment": None})
    base = (np.zeros((3, 8, 8), np.uint8), np.zeros(3, np.int64))
    none = (np.zeros((0, 8, 8), np.uint8), np.zeros(0, np.int64))
    assert len(make_pool(plain, open_teacher(task), base=base, uploads=none, seed=0).views) == 3


def test_folds_are_even_and_repeatable():
    folds = assign_folds(11, 4, seed=5)
    assert sorted(np.bincount(folds).tolist()) == [2, 3, 3, 3]
    assert np.array_equal(folds, assign_folds(11, 4, seed=5))


@pytest.mark.parametrize(("count", "folds"), [(100, 0), (100, 1), (7, 4), (0, 4)])
def test_folds_need_enough_uploads(count, folds):
    assert (assign_folds(count, folds, seed=0) == -1).all()


def test_equal_contents_have_one_number():
    x = np.array([[3, 1], [2, 2], [3, 1], [1, 3]], np.uint8)
    assert number_contents(x).tolist() == [0, 1, 0, 2]
    assert number_contents(np.zeros((0, 2), np.uint8)).tolist() == []


def test_a_folds_student_never_sees_that_folds_uploads():
    pool = _pool(base=4, uploads=4)
    sources = pool_module.sources(pool, np.array([0, 1, 0, 1]), students=3)
    assert [uploads.tolist() for _, uploads in sources] == [[5, 7], [4, 6], [4, 5, 6, 7]]
    assert all(base.tolist() == [0, 1, 2, 3] for base, _ in sources)


def test_a_batch_has_its_share_of_uploads(task):
    pool = _pool(base=40, uploads=10)
    folds = assign_folds(10, 2, seed=0)
    sources = pool_module.sources(pool, folds, students=3)
    drawn = pool_module.draw(sources, pool, task.training, torch.Generator().manual_seed(0))
    assert drawn.shape[1:] == (3, task.training.batch)
    assert (drawn >= 0).all()
    share = ((drawn % 50) >= 40).float().mean(dim=(0, 2))
    assert torch.allclose(share, torch.full((3,), 5 / 64), atol=1e-6)
    for fold in (0, 1):
        seen = set((drawn[:, fold] % 50).flatten().tolist())
        assert seen.isdisjoint((40 + np.flatnonzero(folds == fold)).tolist())


def test_student_learns_the_teacher_and_reports_progress(task):
    steps = []
    pool = _taught(task)
    students = distill.train(task, pool, folds=np.zeros(0, np.int64), progress=steps.append).students
    assert len(students) == 1
    assert not students[0].training
    x = pool.views[:300].numpy().astype(np.uint8)
    agreement = (distill.answer(students[0], x).argmax(1) == pool.teacher_logits[:300].argmax(1).numpy()).mean()
    assert agreement > 0.9
    assert steps[-1].done == task.training.steps
    assert steps[-1].message.startswith("loss ")


def test_training_repeats_with_its_seed(task):
    short = task.model_copy(update={"training": task.training.model_copy(update={"steps": 5})})
    pool, folds = _taught(short), np.zeros(0, np.int64)
    first, second = (
        distill.train(short, pool, folds=folds, progress=silent).students[-1].state_dict() for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


class WithBatchNorm(nn.Module):
    """A student that vmap cannot batch."""

    def __init__(self, task):
        super().__init__()
        self.norm = nn.BatchNorm1d(64)
        self.head = nn.Linear(64, len(task.labels))

    def forward(self, x):
        embedding = self.norm(x.flatten(1).float())
        return self.head(embedding), embedding


def test_student_with_batch_statistics_trains_one_after_another(task):
    entry = "cloud_service.tasks.networks:TinyMlp"
    assert task.student == entry
    students = [WithBatchNorm(task) for _ in range(2)]
    group = Group(students)
    x = torch.randint(0, 17, (2, 16, 8, 8), generator=torch.Generator().manual_seed(0)).float()
    group.forward(x)[0].sum().backward()
    group.release()
    assert all(student.norm.running_mean.abs().sum() > 0 for student in students)
    assert len(group.parameters) == 8


def test_students_batched_together_equal_students_run_alone(task):
    from cloud_service.tasks.networks import TinyMlp

    students = [TinyMlp(task) for _ in range(3)]
    x = torch.randint(0, 17, (3, 6, 8, 8), generator=torch.Generator().manual_seed(0)).float()
    together = Group(students).forward(x)[0]
    alone = torch.stack([student(x[i])[0] for i, student in enumerate(students)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_out_of_fold_scores_come_from_the_right_student():
    class Constant(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.value = value

        def forward(self, x):
            return torch.full((len(x), 2), self.value), x

    x = np.zeros((4, 8, 8), np.uint8)
    students = [Constant(0.0), Constant(1.0), Constant(2.0)]
    logits = distill.out_of_fold(students, x, folds=np.array([1, 0, 1, 0]), classes=2)
    assert logits[:, 0].tolist() == [1.0, 0.0, 1.0, 0.0]
    whole = distill.out_of_fold(students, x, folds=np.full(4, -1), classes=2)
    assert whole[:, 0].tolist() == [2.0] * 4


def _pool(*, base, uploads):
    count = base + uploads
    return Pool(
        views=torch.zeros((2 * count, 8, 8)),
        teacher_logits=torch.zeros((2 * count, 4)),
        labels=torch.zeros(count, dtype=torch.int64),
        uploaded=torch.arange(count) >= base,
    )


def _taught(task):
    with np.load(task.base_data) as data:
        base = (data["x"], data["y"])
    none = (np.zeros((0, 8, 8), np.uint8), np.zeros(0, np.int64))
    return make_pool(task, open_teacher(task), base=base, uploads=none, seed=0)
