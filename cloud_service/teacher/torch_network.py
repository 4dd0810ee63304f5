"""A teacher in torch: a factory's module or a zoo's network, with its weights. No other module here imports torch."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cloud_service.errors import TeacherError
from cloud_service.networks.settings import StudentSettings
from cloud_service.tasks.task import TaskDefinition, load_entry
from cloud_service.teacher.choice import Device
from cloud_service.teacher.model import Array, Network, Outputs
from cloud_service.teacher.settings import Kind, TeacherSettings
from shared.errors import SettingsError

log = logging.getLogger(__name__)

_INSTALL = "type: pip install 'edgeloop[zoo]'"
# What ImageNet's networks are given unless they say otherwise.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build(teacher: TeacherSettings, task: TaskDefinition) -> nn.Module:
    """The module with its weights, in evaluation mode: raw samples to logits or (logits, embedding).

    Raises:
        SettingsError: the settings name what does not exist or is not installed.
        TeacherError: it cannot be made, or its weights do not fit.
    """
    module, body = make(teacher, task)
    assert teacher.weights is not None
    try:
        body.load_state_dict(read_weights(teacher.weights))
    except (RuntimeError, TypeError, AttributeError) as err:
        raise TeacherError(f"the weights in {teacher.weights} do not fit {teacher.model}: {err}") from err
    return module.eval().requires_grad_(requires_grad=False)


def make(teacher: TeacherSettings, task: TaskDefinition) -> tuple[nn.Module, nn.Module]:
    """A new module without its weights, and the part of it that weights are of: the module, or the zoo's network in it.

    Raises:
        SettingsError: the settings name what does not exist or is not installed.
    """
    if teacher.kind is Kind.OWN:
        from cloud_service.networks.students import open_student

        named = StudentSettings(network=teacher.model, width=teacher.width)
        own = open_student(task.model_copy(update={"student": named}))
        return own, own
    if teacher.kind is not Kind.FACTORY:
        body = _zoo_network(teacher, classes=len(task.labels))
        return Pictures(body, task, largest=teacher.picture_max, size=teacher.picture_size), body
    made = load_entry(teacher.model, setting=f"tasks.{task.name}.teacher.model")(task)
    if not isinstance(made, nn.Module):
        raise SettingsError(f"{teacher.model} gave {type(made).__name__}, not a torch.nn.Module")
    return made, made


def open_torch(module: nn.Module, *, threads: int | None = None, device: Device = Device.CPU) -> Network:
    """A module as a function of raw samples.

    Args:
        threads: torch has one number for the whole process; None: it stays.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    module = module.to(device.value)

    def run(samples: Array) -> Outputs:
        with torch.inference_mode():
            given = module(torch.from_numpy(samples).to(device.value))
        parts = given if isinstance(given, tuple) else (given,)
        return Outputs(*[part.float().cpu().numpy() for part in parts[:2]])

    return run


def export(module: nn.Module, task: TaskDefinition, target: Path) -> None:
    """Write a module as ONNX with the outputs that it has.

    Raises:
        ModelError: it cannot be exported.
    """
    from cloud_service.training import quantize

    example = torch.zeros((2, *task.input_shape), dtype=getattr(torch, task.input_dtype))
    outputs = (quantize.LOGITS, quantize.EMBEDDING) if isinstance(module(example), tuple) else (quantize.LOGITS,)
    quantize.export(module, task, target, outputs=outputs)


def has_cuda() -> bool:
    """Whether this torch can run on an NVIDIA GPU."""
    return bool(torch.cuda.is_available())


class Pictures(nn.Module):
    """Lets a zoo's network take raw pictures [N, H, W], [N, H, W, 1 or 3]: scaled, normalised, channels first.

    Args:
        network: takes float32 [N, 3, H, W].
        task: its input's shape.
        largest: value of a raw sample that becomes 1.
        size: side in pixels to resize to; None: as they come.
    """

    network: Any  # each zoo's networks have methods of their own
    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, task: TaskDefinition, *, largest: float, size: int | None) -> None:
        super().__init__()
        shape = task.input_shape
        if len(shape) not in {2, 3} or (len(shape) == 3 and shape[2] not in {1, 3}):
            raise SettingsError(
                f"task {task.name}: networks of the zoo take pictures [H, W] or [H, W, 1 or 3], not {list(shape)}: "
                'write a factory (model = "module:function") that takes the task\'s raw samples'
            )
        self.network, self.largest, self.size = network, largest, size
        config = getattr(network, "pretrained_cfg", None) or {}
        for name, default in (("mean", _MEAN), ("std", _STD)):
            values = torch.tensor(config.get(name) or default, dtype=torch.float32)
            self.register_buffer(name, values.view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        """Raw pictures to logits, and the features before the classifier where the network gives them."""
        pictures = x.float() / self.largest
        channels = pictures.unsqueeze(1) if pictures.dim() == 3 else pictures.permute(0, 3, 1, 2)
        if channels.shape[1] == 1:
            channels = channels.expand(-1, 3, -1, -1)
        if self.size is not None:
            channels = functional.interpolate(channels, (self.size, self.size), mode="bilinear", align_corners=False)
        normal = (channels - self.mean) / self.std
        if not hasattr(self.network, "forward_head"):
            logits: Tensor = self.network(normal)
            return logits
        features = self.network.forward_features(normal)
        return self.network.forward_head(features), self.network.forward_head(features, pre_logits=True)


def _zoo_network(teacher: TeacherSettings, *, classes: int) -> nn.Module:
    name = teacher.model.partition(":")[2]
    # An absent library and one that does not fit the installed torch (RuntimeError: no operator nms) have one remedy.
    try:
        if teacher.kind is Kind.TIMM:
            import timm

            make: Any = timm.create_model
        else:
            import torchvision.models

            make = torchvision.models.get_model
    except (ImportError, RuntimeError) as err:
        raise SettingsError(f"{teacher.model}: {teacher.kind.value} cannot be imported ({err}); {_INSTALL}") from err
    try:
        network: nn.Module = (
            make(name, pretrained=False, num_classes=classes)
            if teacher.kind is Kind.TIMM
            else make(name, weights=None, num_classes=classes)
        )
    # Each library raises classes of its own for an unknown name or an argument that a network does not take.
    except Exception as err:
        raise SettingsError(f"{teacher.model}: {teacher.kind.value} does not make such a network: {err}") from err
    return network


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file or of a saved state_dict.

    Raises:
        SettingsError: safetensors is not installed.
        TeacherError: it cannot be read, or holds something else.
    """
    if file.suffix == ".safetensors":
        try:
            from safetensors import SafetensorError
            from safetensors.torch import load_file
        except ImportError as err:
            raise SettingsError(f"{file} is read with safetensors, which is not installed; {_INSTALL}") from err
        try:
            return load_file(file)
        except (OSError, SafetensorError) as err:
            raise TeacherError(f"the weights {file} cannot be read: {err}") from err
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as err:
        raise TeacherError(
            f"the weights {file} cannot be read as plain tensors: save model.state_dict() or a .safetensors file: {err}"
        ) from err
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict):
        raise TeacherError(f"the weights {file} hold {type(state).__name__}, not a state_dict")
    return state
