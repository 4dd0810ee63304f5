"""Crops of the eight photos that ship in two wheels: scenes that a camera sees again and again, and then less well.

Home is the scenes as they are, the field the same scenes through a camera with a fault. A crop is a square at random,
so those of the test lie over those of the training: new views of known scenes. The labels are the teacher's answers; no
person has said what is on any crop.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cloud_service.tasks.task_file import read_task_file
from cloud_service.teacher.offline import open_teacher
from examples.study import Domains, Part
from examples.vision import naming
from shared.errors import SettingsError

Pictures = NDArray[np.uint8]
SIDE = 64  # of a sample, in pixels
_SMALLEST, _LARGEST = 0.4, 0.8  # a crop's side over the photo's shorter one

PHOTOS = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "camera": ("skimage", "data/camera.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
}

# The camera's faults, of one severity; each picture of the field has one of the three.
_DARK = 0.3
_NOISE = 24.0  # standard deviation, of 255
_BLUR = 1.5  # pixels of the sample, standard deviation


# Crops of each photo.
_HOME = {"source_train": 200, "source_eval": 40, "source_test": 75}
_FIELD = {"field_stream": 150, "field_test": 75}


def load(seed: int) -> Domains:
    """Divide the photos by `seed`, and let the teacher name every crop.

    Raises:
        SettingsError: a photo's or the teacher's package is not installed.
    """
    task = read_task_file(Path(__file__).with_name("task.toml"))
    return gather(sorted(PHOTOS), open_teacher(task.model_copy(update={"teacher": (naming.settings(),)})), seed=seed)


def gather(names: Sequence[str], ask: Callable[[Pictures], NDArray[Any]], *, seed: int) -> Domains:
    """Draw the crops of each part; `ask` gives their logits [N, C]."""
    rng = np.random.default_rng(seed)
    parts: dict[str, Part] = {}
    for plan in (_HOME, _FIELD):
        for part, count in plan.items():
            x = np.concatenate([crops(name, count, rng) for name in names])
            if plan is _FIELD:
                x = spoil(x, rng)
            parts[part] = Part(x, _answer(ask, x))
    none = Part(parts["field_test"].x[:0], parts["field_test"].y[:0])  # the teacher is given, and learns nothing here
    return Domains(
        home=f"crops of {len(names)} photos",
        field="other crops of them, each dark, noisy or blurred",
        field_labelled=none,
        **parts,
    )


def crops(name: str, count: int, rng: np.random.Generator) -> Pictures:
    """uint8 [count, SIDE, SIDE, 3]: squares at random in a photo, half of them mirrored."""
    return cut(_open(name), count, rng)


def cut(photo: Any, count: int, rng: np.random.Generator) -> Pictures:
    """The same of a picture of Pillow's."""
    return np.stack([_crop(photo, rng) for _ in range(count)])


def spoil(x: Pictures, rng: np.random.Generator) -> Pictures:
    """The pictures as a faulty camera gives them: each dark, noisy or blurred."""
    from PIL import Image, ImageFilter

    spoilt = x.astype(np.float64)
    kinds = rng.integers(3, size=len(x))
    spoilt[kinds == 0] *= _DARK
    spoilt[kinds == 1] += rng.normal(0.0, _NOISE, spoilt[kinds == 1].shape)
    for number in np.flatnonzero(kinds == 2):
        spoilt[number] = np.asarray(Image.fromarray(x[number]).filter(ImageFilter.GaussianBlur(_BLUR)))
    return np.clip(np.rint(spoilt), 0, 255).astype(np.uint8)


def augment(samples: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures [N, H, W, 3] mirrored or not, a little nearer, to the side, lighter or darker."""
    count = len(samples)

    def spread(limit: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2.0 - 1.0) * limit

    zoom, mirror = 0.9 + spread(0.1), torch.sign(spread(1.0))
    none = torch.zeros(count)
    view = torch.stack([zoom * mirror, none, spread(0.1), none, zoom, spread(0.1)], dim=1).view(count, 2, 3)
    pictures = samples.movedim(-1, 1)
    grid = functional.affine_grid(view, list(pictures.shape), align_corners=False)
    moved = functional.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False).movedim(1, -1)
    return (moved * (1.0 + spread(0.15)).view(-1, 1, 1, 1)).clamp(0.0, 255.0)


def _crop(photo: Any, rng: np.random.Generator) -> Pictures:
    from PIL import Image

    width, height = photo.size
    side = min(width, height) * rng.uniform(_SMALLEST, _LARGEST)
    x, y = rng.uniform(0, width - side), rng.uniform(0, height - side)
    square = photo.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))
    found = np.asarray(square)
    return found[:, ::-1] if rng.random() < 0.5 else found


def _open(name: str) -> Any:
    package, file = PHOTOS[name]
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise SettingsError(f"the photo {name} comes with {package}: pip install --no-deps scikit-image scikit-learn")
    from PIL import Image

    with Image.open(Path(found.origin).parent / file) as opened:
        return opened.convert("RGB")


def _answer(ask: Callable[[Pictures], NDArray[Any]], x: Pictures) -> NDArray[np.int64]:
    """The teacher's answer to each picture, which is its label."""
    labels: NDArray[np.int64] = ask(x).argmax(axis=1)
    return labels
