"""Is this sample hard? Pure: logits and manifest in, a judgement out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared import uncertainty
from shared.manifest import Manifest
from shared.uncertainty import Score


@dataclass(frozen=True, slots=True)
class Hardness:
    """What the model's output says of one sample.

    Attributes:
        prediction: index of the most probable label; 0 when the output is not valid.
        confidence: its probability after temperature, in [0, 1]; 0 when the output is not valid.
        score: the manifest's uncertainty score, higher is harder.
        valid: False: the output or its score held NaN or infinity, which is hard whatever the threshold.
        hard: the score is at or above the manifest's threshold, or the output is not valid.
    """

    prediction: int
    confidence: float
    score: float
    valid: bool
    hard: bool


_INVALID = Hardness(prediction=0, confidence=0.0, score=1.0, valid=False, hard=True)


def assess(logits: NDArray[np.float32], manifest: Manifest) -> Hardness:
    """Judge one sample's logits [C] by its manifest's score, temperature and threshold."""
    if not np.isfinite(logits).all():
        return _INVALID
    probabilities = uncertainty.softmax(logits, manifest.temperature)
    prediction = int(probabilities.argmax())
    confidence = float(probabilities[prediction])
    if manifest.score is Score.MAX_PROBABILITY:
        # In float32, as `uncertainty.max_probability` has it: thresholds are scores, and one equal to a score is hard.
        score = float(np.float32(1.0) - probabilities[prediction])
    else:
        score = float(uncertainty.hardness(logits, manifest.temperature, manifest.score))
    # A temperature may make finite logits infinite.
    if not (math.isfinite(confidence) and math.isfinite(score)):
        return _INVALID
    hard = manifest.threshold is not None and score >= manifest.threshold
    return Hardness(prediction=prediction, confidence=confidence, score=score, valid=True, hard=hard)
