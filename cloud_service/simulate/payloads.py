"""The tensors that simulated devices send."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, get_args

import numpy as np

from shared.codec import Array
from shared.errors import SettingsError
from shared.manifest import Dtype

# Different random tensors; more would only cost memory.
_DRAWN = 256


def drawn(shape: tuple[int, ...], dtype: str, *, seed: int | None) -> Array:
    """Random tensors [256, *shape]: whole numbers over the type's range, or a normal distribution.

    Raises:
        SettingsError: the contract has no tensors of this type.
    """
    rng = np.random.default_rng(seed)
    if dtype not in get_args(Dtype):
        raise SettingsError(f"--dtype {dtype}: it is one of {', '.join(get_args(Dtype))}")
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return rng.standard_normal((_DRAWN, *shape)).astype(kind)
    limits = np.iinfo(kind)
    return rng.integers(limits.min, limits.max, (_DRAWN, *shape), dtype=kind, endpoint=True)


def rows(file: Path) -> Array:
    """The array `x` [N, *shape] of an .npz file.

    Raises:
        SettingsError: there is no such file, or no such array in it.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            x: np.ndarray[Any, Any] = arrays["x"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as err:
        raise SettingsError(f"--data {file}: it must be an .npz file with samples in an array x [N, …]: {err}") from err
    if x.ndim < 2 or len(x) == 0:
        raise SettingsError(f"--data {file}: x is {list(x.shape)}, it must be [N, …] with N samples")
    return x
