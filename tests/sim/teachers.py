"""Teachers of every kind over one rule, and stand-ins for the libraries that the extra `zoo` installs.

The rule is that of `tests.sim.bundles`: `sample(3)` is a 3. A shifted teacher calls it a 2.
"""

import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cloud_service.tasks.task import TaskDefinition
from tests.sim.bundles import LABELS, SHAPE, linear_model, sample, weights

FACTORY = "tests.sim.teachers:LinearTeacher"


class LinearTeacher(nn.Module):
    """Raw samples [N, 8, 8] to (logits [N, C], embedding [N, 64])."""

    def __init__(self, task: TaskDefinition) -> None:
        super().__init__()
        self.rows = nn.Linear(64, len(task.labels))

    def forward(self, x):
        flat = x.flatten(1).float()
        return self.rows(flat), flat


class LogitsAlone(LinearTeacher):
    """The same without an embedding."""

    def forward(self, x):
        return super().forward(x)[0]


class NotExportable(LinearTeacher):
    """Asks for a value while it is traced, which no ONNX graph can."""

    def forward(self, x):
        flat = x.flatten(1).float()
        return self.rows(flat if float(flat.sum()) > -1.0 else -flat), flat


def slow(task):
    """Takes longer to build than any test waits."""
    time.sleep(120)


def no_module(task):
    return [task.name]


def save_weights(file: Path, *, shift: int = 0, gain: float = 0.5) -> Path:
    """A state_dict of `LinearTeacher`; `.safetensors` or torch's own, by the name."""
    matrix = torch.from_numpy(weights(64, len(LABELS), shift=shift, gain=gain).T.copy())
    state = {"rows.weight": matrix, "rows.bias": torch.zeros(len(LABELS))}
    if file.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(state, file)
    else:
        torch.save(state, file)
    return file


def write_task(folder: Path, teacher, **changes) -> TaskDefinition:
    """The digits task with its base data in `folder`, taught by `teacher`; `model.onnx` lies there, too."""
    (folder / "model.onnx").write_bytes(linear_model(weights(64, len(LABELS)), embedding=True))
    y = np.arange(40) % 10
    x = np.stack([sample(label) for label in y])
    np.savez(folder / "base.npz", x=x, y=y, x_eval=x, y_eval=y)
    values = {
        "name": "digits",
        "labels": LABELS,
        "input_shape": SHAPE,
        "input_dtype": "uint8",
        "teacher": teacher,
        "base_data": folder / "base.npz",
    }
    return TaskDefinition.model_validate(values | changes)


def mirrored(x):
    """Two views: the samples, and the same darker."""
    return np.stack([x, (x // 2).astype(x.dtype)])


def badly_shaped(x):
    return x


# What `timm` and `torchvision` look like to a caller, over one convolution: the real ones need gigabytes.
ZOO_NETWORK = """
import torch
from torch import nn

class Network(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.classifier = nn.Linear(8, num_classes)
    def forward(self, x):
        return self.classifier(torch.relu(self.body(x)).mean((2, 3)))
"""
TIMM = (
    ZOO_NETWORK
    + """
class Timm(Network):
    pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    def forward_features(self, x):
        return torch.relu(self.body(x))
    def forward_head(self, x, pre_logits=False):
        pooled = x.mean((2, 3))
        return pooled if pre_logits else self.classifier(pooled)

def create_model(name, pretrained=False, num_classes=1000):
    assert not pretrained
    if name != "tiny":
        raise RuntimeError(f"Unknown model ({name})")
    return Timm(num_classes)
"""
)
TORCHVISION = (
    ZOO_NETWORK
    + """
def get_model(name, weights=None, num_classes=1000):
    assert weights is None
    if name != "tiny":
        raise ValueError(f"Unknown model {name}")
    return Network(num_classes)
"""
)


def write_zoo(folder: Path) -> Path:
    """Packages `timm` and `torchvision` for a child process's PYTHONPATH."""
    (folder / "torchvision").mkdir(parents=True)
    (folder / "timm.py").write_text(TIMM)
    (folder / "torchvision" / "__init__.py").touch()
    (folder / "torchvision" / "models.py").write_text(TORCHVISION)
    return folder
