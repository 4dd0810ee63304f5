"""Shoulder exercises under a smartwatch: five of ten people are at home, five are met in the field.

The data comes in seglearn's wheel (BSD licence; Burns et al. 2018, arXiv:1802.01489): 20 repetitions of 7 exercises on
each side of 10 people, six values at 50 Hz.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from examples.study import Domains, Part
from shared.errors import SettingsError

WINDOW = 128
# Parts of each recording by time, so that no window reaches into another part; and the step between windows.
_HOME = {"source_train": (0.0, 0.6, 32), "source_eval": (0.6, 0.75, 64), "source_test": (0.75, 1.0, 64)}
_FIELD = {"field_labelled": (0.0, 0.2, 64), "field_stream": (0.2, 0.7, 32), "field_test": (0.7, 1.0, 64)}

_TILT_RAD = 0.15
_GAIN = 0.1
_NOISE = 0.02


def load(seed: int) -> Domains:
    """Divide the people by `seed`, five and five, and each recording by time.

    Raises:
        SettingsError: seglearn is not installed.
    """
    found = importlib.util.find_spec("seglearn")
    if found is None or found.origin is None:
        raise SettingsError("the data comes with seglearn: pip install --no-deps seglearn==1.2.5")
    # A pickle: it runs what it says, and is trusted as the package is.
    held = np.load(Path(found.origin).parent / "data" / "watch_dataset.npy", allow_pickle=True).item()
    people = np.asarray(held["subject"])
    order = np.random.default_rng(seed).permutation(np.unique(people))
    parts = {}
    for names, who in ((_HOME, order[:5]), (_FIELD, order[5:])):
        mine = [number for number, person in enumerate(people) if person in who]
        for name, (begin, end, step) in names.items():
            cut = [_windows(held["X"][number], begin, end, step) for number in mine]
            y = np.concatenate([np.full(len(one), held["y"][number]) for number, one in zip(mine, cut, strict=True)])
            parts[name] = Part(np.concatenate(cut), y.astype(np.int64))
    said = [", ".join(str(int(person)) for person in sorted(who)) for who in (order[:5], order[5:])]
    return Domains(home=f"people {said[0]}", field=f"people {said[1]}", **parts)


def augment(samples: Tensor, generator: torch.Generator) -> Tensor:
    """Windows [N, T, 6] as a watch that sits a little otherwise, and moves a little more or less, would give them."""
    count = len(samples)

    def spread(limit: float) -> Tensor:
        return (torch.rand(count, 3, generator=generator) * 2.0 - 1.0) * limit

    tilt = spread(_TILT_RAD)
    turn = torch.linalg.matrix_exp(_cross(tilt))
    both = samples.reshape(count, -1, 2, 3)
    turned = torch.einsum("nij,ntkj->ntki", turn, both).reshape_as(samples)
    gain = 1.0 + spread(_GAIN)[:, :1, None]
    noise = torch.randn(samples.shape, generator=generator) * _NOISE
    return turned * gain + noise


def _cross(axis: Tensor) -> Tensor:
    """[N, 3] to the matrices [N, 3, 3] of the cross product with it."""
    x, y, z = axis.unbind(1)
    none = torch.zeros_like(x)
    return torch.stack([none, -z, y, z, none, -x, -y, x, none], dim=1).reshape(-1, 3, 3)


def _windows(values: NDArray[np.float64], begin: float, end: float, step: int) -> NDArray[np.float32]:
    low, high = round(len(values) * begin), round(len(values) * end)
    starts = range(low, high - WINDOW + 1, step)
    return np.stack([values[at : at + WINDOW] for at in starts]).astype(np.float32)
