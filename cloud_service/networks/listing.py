"""What `edgeloop networks` shows: each network's cost on an example input, measured once and kept."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cloud_service.networks.own import OWN
from cloud_service.tasks.checking import Measured, measure
from cloud_service.tasks.task import TaskDefinition
from cloud_service.teacher.settings import TeacherSettings
from shared import __version__, atomic
from shared.errors import EdgeloopError, SettingsError

_MLP = "cloud_service.tasks.networks:TinyMlp"
_INPUTS: dict[int, tuple[int, ...]] = {1: (128, 6), 2: (32, 32, 3)}
_CLASSES = 10
ZOO = (
    "timm:mobilenetv3_small_100", "timm:mobilenetv4_conv_small", "timm:ghostnet_100", "timm:efficientnet_lite0",
    "torchvision:mobilenet_v2", "torchvision:shufflenet_v2_x1_0",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Listed:
    """A network and its cost; `cost` is None where it cannot be made here, and `about` says why."""

    name: str
    input_shape: tuple[int, ...]
    about: str
    cost: Measured | None


def list_networks(cache: Path, *, zoo: bool = False) -> list[Listed]:
    """Every network, at width 1 and 10 labels, on an input of an example's shape; costs are kept in `cache`."""
    rows = [(f"edgeloop:{name}", _INPUTS[own.axes], own.about) for name, own in OWN.items()]
    rows.append((_MLP, (8, 8), "small pictures of values 0..16; one hidden layer"))
    if zoo:
        rows += [(name, (96, 96, 3), "pictures") for name in ZOO]
    known = _read(cache)
    listed = []
    for name, shape, about in rows:
        key = f"{name} {shape} {__version__} {platform.machine()}"
        if key not in known:
            try:
                known[key] = asdict(_cost(name, shape))
            except EdgeloopError as err:
                listed.append(Listed(name, shape, str(err), None))
                continue
            atomic.write_json(cache, known)
        listed.append(Listed(name, shape, about, Measured(**known[key])))
    return listed


def _cost(name: str, shape: tuple[int, ...]) -> Measured:
    task = TaskDefinition(
        name="example",
        labels=tuple(map(str, range(_CLASSES))),
        input_shape=shape,
        input_dtype="uint8",
        student=name,
        teacher=(TeacherSettings(model="none.onnx"),),
        base_data=Path("none.npz"),
    )
    return measure(task, np.random.default_rng(0).integers(0, 256, (16, *shape), dtype=np.uint8))


def _read(cache: Path) -> dict[str, dict[str, Any]]:
    try:
        found: dict[str, dict[str, Any]] = json.loads(cache.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as err:
        raise SettingsError(f"{cache} cannot be read: remove it, it is measured again ({err})") from err
    return found
