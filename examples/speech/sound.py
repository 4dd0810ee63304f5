"""Spoken digits of six speakers: three are at home, three are met in the field. And what the task's settings name.

Free Spoken Digit Dataset (github.com/Jakobovski/free-spoken-digit-dataset), CC BY-SA 4.0; not part of edgeloop.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from examples.study import Domains, Part
from shared.errors import SettingsError

LENGTH = 5120  # 0.64 s: 19 recordings in 20 are shorter; the rest is cut at the end

# By the recordings' index, 50 of each digit and speaker. The publisher's own test recordings, 0 to 4, are in the tests.
_TEST, _HOME_EVAL, _FIELD_LABELLED = range(10), range(10, 15), range(10, 20)

_FASTEST = 0.12
_MOST_SHIFTED = 600
_GAIN_DB = 6.0
_NOISE = 60.0


def load(file: Path, seed: int) -> Domains:
    """Divide the speakers by `seed`, three and three, and each one's recordings by their index.

    Raises:
        SettingsError: there is no such file, or it is another one.
    """
    try:
        with np.load(file) as opened:
            audio, offset, names = opened["audio"], opened["offset"], opened["name"]
    except (OSError, KeyError, ValueError) as err:
        raise SettingsError(
            f"{file} is not the Free Spoken Digit Dataset as npz (audio, offset, name): {err}; get the recordings at "
            "https://github.com/Jakobovski/free-spoken-digit-dataset and see examples/speech/README.md"
        ) from err
    digits, speakers, numbers = zip(*(name.split("_") for name in names), strict=True)
    x = np.stack([_of_length(audio[offset[i] : offset[i + 1]]) for i in range(len(names))])
    y, index = np.array(digits, dtype=np.int64), np.array(numbers, dtype=np.int64)
    order = np.random.default_rng(seed).permutation(np.unique(speakers))
    at_home = np.isin(speakers, order[:3])

    def part(home: bool, chosen: range | list[int]) -> Part:  # noqa: FBT001  # the two domains
        rows = (at_home == home) & np.isin(index, list(chosen))
        return Part(x[rows], y[rows])

    return Domains(
        home=f"speakers {', '.join(sorted(order[:3]))}",
        field=f"speakers {', '.join(sorted(order[3:]))}",
        source_train=part(True, range(15, 50)),  # noqa: FBT003
        source_eval=part(True, _HOME_EVAL),  # noqa: FBT003
        source_test=part(True, _TEST),  # noqa: FBT003
        field_labelled=part(False, _FIELD_LABELLED),  # noqa: FBT003
        field_stream=part(False, range(20, 50)),  # noqa: FBT003
        field_test=part(False, _TEST),  # noqa: FBT003
    )


def augment(samples: Tensor, generator: torch.Generator) -> Tensor:
    """Sounds a little faster or slower, earlier or later, louder or softer, with some noise.

    Args:
        samples: float32 [N, T], values of 16-bit sound.
        generator: source of the randomness.
    """
    count, length = samples.shape

    def spread(limit: float) -> Tensor:
        return (torch.rand(count, 1, generator=generator) * 2.0 - 1.0) * limit

    at = torch.arange(length)[None, :] * (1.0 + spread(_FASTEST)) + spread(float(_MOST_SHIFTED)).round()
    places = torch.stack([at / (length - 1) * 2.0 - 1.0, torch.zeros_like(at)], dim=-1)[:, None]
    moved = functional.grid_sample(samples[:, None, None], places, padding_mode="zeros", align_corners=True)[:, 0, 0]
    noise = torch.randn(count, length, generator=generator) * _NOISE * torch.rand(count, 1, generator=generator)
    louder = moved * 10.0 ** (spread(_GAIN_DB) / 20.0)
    return (louder + noise).round().clamp(-32768.0, 32767.0)


def _of_length(sound: NDArray[Any]) -> NDArray[np.int16]:
    cut = sound[:LENGTH]
    return np.pad(cut, (0, LENGTH - len(cut))).astype(np.int16)
