"""A task small enough to train in a second: pictures whose bright row is their class."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cloud_service.tasks.task import TaskDefinition, TrainingSettings
from cloud_service.training import quantize

CLASSES = 4

torch.set_num_threads(1)  # as in the training process: the networks are too small for two


class RowTeacher(nn.Module):
    """Answers with the brightest row."""

    def forward(self, x):
        return x.float().mean(dim=2)[:, :CLASSES] * 2.0


def pictures(count: int, *, seed: int, shift: int = 0):
    """Noisy uint8 [N, 8, 8] with a bright row, and its index."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, count)
    x = rng.integers(0, 7, (count, 8, 8)).astype(np.uint8)
    x[np.arange(count), y] = 12 - shift
    return x, y


@pytest.fixture(scope="session")
def teacher_file(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("teacher") / "teacher.onnx"
    task = make_task(file.parent, teacher=file)
    quantize.export(RowTeacher(), task, file, outputs=("logits",))
    return file


@pytest.fixture(scope="session")
def task(tmp_path_factory, teacher_file) -> TaskDefinition:
    definition = make_task(tmp_path_factory.mktemp("task"), teacher=teacher_file)
    x, y = pictures(300, seed=1)
    x_eval, y_eval = pictures(100, seed=2)
    np.savez(definition.base_data, x=x, y=y, x_eval=x_eval, y_eval=y_eval)
    return definition


def make_task(folder: Path, *, teacher: Path) -> TaskDefinition:
    return TaskDefinition(
        name="rows",
        labels=tuple("abcd"),
        input_shape=(8, 8),
        input_dtype="uint8",
        teacher=teacher,
        base_data=folder / "base.npz",
        augment="cloud_service.tasks.augment:digits",
        training=TrainingSettings(
            steps=100, batch=64, views=2, folds=3, golden_samples=4, learning_rate=1e-2, beta=0.0
        ),
    )


def write_samples(file: Path, *, count: int = 60) -> None:
    x, _ = pictures(count, seed=3, shift=3)
    with torch.no_grad():
        probabilities = torch.softmax(RowTeacher()(torch.from_numpy(x)), dim=1).numpy()
    weight = np.where(np.arange(count) % 10 == 0, 10.0, 1.0)
    np.savez(file, x=x, teacher_probs=probabilities, weight=weight, order=np.arange(count))
