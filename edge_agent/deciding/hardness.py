"""Is this sample hard? Pure: logits, manifest and threshold in, a judgement out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared import deferral, uncertainty
from shared.manifest import Manifest
from shared.uncertainty import Score

# Within these limits no step of a softmax overflows, so that none has to be guarded.
_ORDINARY_LOGIT = 1e30
_ORDINARY_TEMPERATURE = 1e6
_ONE = np.float32(1.0)
_FEW = 64


@dataclass(frozen=True, slots=True)
class Hardness:
    """What the model's output says of one sample.

    Attributes:
        prediction: index of the label with the highest logit; 0 when the output is not valid.
        confidence: its probability after temperature, in [0, 1]; 0 when the output is not valid.
        score: the manifest's uncertainty score, higher is harder.
        valid: False: the output or its score held NaN or infinity, which is hard whatever the threshold.
        hard: the score is at or above the threshold, or the output is not valid.
    """

    prediction: int
    confidence: float
    score: float
    valid: bool
    hard: bool


_INVALID = Hardness(prediction=0, confidence=0.0, score=1.0, valid=False, hard=True)


def assess(logits: NDArray[np.float32], manifest: Manifest, *, threshold: float | None) -> Hardness:
    """Judge one sample's logits [C], C ≥ 1, by its manifest's score and temperature.

    Args:
        threshold: a score at or above it is hard; the budget's, or the manifest's own. None: nothing valid is hard.
    """
    if len(logits) <= _FEW:
        # Right after a model's run numpy's code is not in the processor's caches; the interpreter's own is.
        values: list[float] = logits.tolist()
        highest, lowest = max(values), min(values)
        finite, prediction = math.isfinite(sum(values)), values.index(highest)
    else:
        prediction = int(logits.argmax())
        highest, lowest = logits.item(prediction), logits.item(logits.argmin())
        finite = math.isfinite(highest) and math.isfinite(lowest)
    if not finite:
        return _INVALID
    temperature = manifest.temperature
    ordinary = lowest > -_ORDINARY_LOGIT and highest < _ORDINARY_LOGIT
    if ordinary and 1 / _ORDINARY_TEMPERATURE < temperature < _ORDINARY_TEMPERATURE:
        scaled = logits if temperature == 1.0 else logits / np.float32(temperature)
        # In float32 and in these steps, as `uncertainty` has them: a score equal to a threshold made there is hard.
        probability = _ONE / np.add.reduce(np.exp(scaled - scaled[prediction]))
    else:
        probability = uncertainty.softmax(logits, temperature)[prediction]
    if manifest.score is Score.MAX_PROBABILITY:
        score = float(_ONE - probability)
    elif manifest.deferral is not None:
        score = float(deferral.score(logits, temperature, manifest.deferral))
    else:
        score = float(uncertainty.hardness(logits, temperature, manifest.score))
    confidence = float(probability)
    # A temperature may make finite logits infinite.
    if not (math.isfinite(confidence) and math.isfinite(score)):
        return _INVALID
    hard = threshold is not None and score >= threshold
    return Hardness(prediction=prediction, confidence=confidence, score=score, valid=True, hard=hard)
