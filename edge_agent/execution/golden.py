"""How close a loaded model comes to its bundle's golden samples on this processor.

int8 kernels differ between processors, so what is compared is probabilities, within the manifest's tolerance, and the
answers (`shared.manifest.GoldenCheck`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared import uncertainty
from shared.bundle import Golden
from shared.codec import Array
from shared.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Closeness:
    """Attributes:
    samples: golden samples run.
    largest_difference: of a probability, against the recorded one; NaN where the model's output is no number.
    agreement: fraction of equal answers.
    """

    samples: int
    largest_difference: float
    agreement: float


def compare(run: Callable[[Array], NDArray[np.float32]], golden: Golden, manifest: Manifest) -> Closeness:
    """Run the golden samples one by one, as the device will, and hold the outputs against the recorded ones."""
    expected = uncertainty.softmax(golden.logits, manifest.temperature)
    got = uncertainty.softmax(np.stack([run(sample) for sample in golden.inputs]), manifest.temperature)
    difference = float(np.abs(got - expected).max())
    agreement = float((got.argmax(axis=1) == expected.argmax(axis=1)).mean())
    return Closeness(len(golden.inputs), difference, agreement)
