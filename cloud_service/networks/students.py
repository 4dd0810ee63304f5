"""The student that a task names: preprocessing, a network, and a head over the task's labels, in one module."""

from __future__ import annotations

import logging

from torch import Tensor, nn
from torch.nn import functional

from cloud_service.networks.own import OWN
from cloud_service.networks.settings import StudentSettings
from cloud_service.preprocessing.opening import open_preprocessing
from cloud_service.preprocessing.settings import Method
from cloud_service.tasks.task import TaskDefinition, load_entry
from shared.errors import SettingsError

log = logging.getLogger(__name__)


class Student(nn.Module):
    """Raw samples [N, *input_shape] to (logits [N, C], embedding [N, E]).

    Args:
        preprocessing: raw samples to float32; stays in float when the student is quantized.
        body: [N, channels, …] to [N, E].
        features: E.
        classes: C.
        axes: of the body's input beside sample and channels.
        channels_last: the preprocessed samples have their channels behind; else they have none and are given one.
        size: side to which pictures are resized; None: as they come.
    """

    def __init__(
        self,
        preprocessing: nn.Module,
        body: nn.Module,
        *,
        features: int,
        classes: int,
        axes: int,
        channels_last: bool,
        size: int | None = None,
    ) -> None:
        super().__init__()
        self.preprocessing, self.body = preprocessing, body
        self.axes, self.channels_last, self.size = axes, channels_last, size
        self.head = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values: Tensor = self.preprocessing(x)
        values = values.movedim(-1, 1) if self.channels_last else values.unsqueeze(1)
        if self.size is not None:
            values = functional.interpolate(values, (self.size, self.size), mode="bilinear", align_corners=False)
        embedding: Tensor = self.body(values)
        return self.head(embedding), embedding


def open_student(task: TaskDefinition) -> nn.Module:
    """A new student: raw samples [N, *input_shape] to (logits [N, C], embedding [N, E]), preprocessing inside.

    Raises:
        SettingsError: there is no such network, it is not installed, or it does not take what the task gives.
        TeacherError: its weights cannot be read.
    """
    asked = task.network
    library, _, name = asked.network.partition(":")
    if library not in {"edgeloop", "timm", "torchvision"}:
        made = load_entry(asked.network, setting=f"tasks.{task.name}.student")(task)
        if not isinstance(made, nn.Module):
            raise SettingsError(f"{asked.network} gave {type(made).__name__}, not a torch.nn.Module")
        return made
    axes = _axes(task, library, name)
    shape = _values_shape(task)
    channels_last = len(shape) == axes + 1
    if not channels_last and len(shape) != axes:
        wanted = "[time] or [time, channels]" if axes == 1 else "[height, width] or [height, width, channels]"
        raise SettingsError(
            f"task {task.name}: {asked.network} takes {wanted}, not {list(shape)}: choose another student "
            "(`edgeloop networks` lists them) or preprocessing"
        )
    if asked.input_size is not None and axes != 2:
        raise SettingsError(f"task {task.name}: student.input_size is for pictures: leave it out of {asked.network}")
    body, features = _body(asked, channels=shape[-1] if channels_last else 1)
    student = Student(
        open_preprocessing(task), body, features=features, classes=len(task.labels), axes=axes,
        channels_last=channels_last, size=asked.input_size,
    )  # fmt: skip
    if asked.weights is not None:
        _begin_with(asked, student)
    return student


def _axes(task: TaskDefinition, library: str, name: str) -> int:
    if library != "edgeloop":
        return 2
    if name not in OWN:
        raise SettingsError(f"task {task.name}: there is no edgeloop:{name}; known: {', '.join(sorted(OWN))}")
    return OWN[name].axes


def _values_shape(task: TaskDefinition) -> tuple[int, ...]:
    """Of one preprocessed sample; log-mel's frames and bands are told by `Method` alone, their sizes do not matter."""
    if task.preprocessing is not None and task.preprocessing.method is Method.LOG_MEL:
        return (0, task.preprocessing.mels)
    return task.input_shape


def _body(asked: StudentSettings, *, channels: int) -> tuple[nn.Module, int]:
    library, _, name = asked.network.partition(":")
    if library == "edgeloop":
        own = OWN[name].make(channels, asked.width)
        return own, own.features
    from cloud_service.networks.zoo import open_zoo

    return open_zoo(asked, channels=channels)


def _begin_with(asked: StudentSettings, student: Student) -> None:
    """Give the student what fits of its weights: they are a student's own, or the bare network's."""
    from cloud_service.teacher.torch_network import read_weights

    assert asked.weights is not None
    given = read_weights(asked.weights)
    part: nn.Module = student if any(name.startswith("body.") for name in given) else student.body
    own = part.state_dict()
    fitting = {name: value for name, value in given.items() if name in own and value.shape == own[name].shape}
    if not any(value.dim() > 1 for value in fitting.values()):
        raise SettingsError(f"nothing in {asked.weights} fits {asked.network}: name weights of that network and width")
    part.load_state_dict(fitting, strict=False)
    if anew := [name for name in own if name not in fitting]:
        log.warning("%s does not fit %s in %s: these begin anew", asked.weights, asked.network, ", ".join(anew))
