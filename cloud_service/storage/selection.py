"""Which samples are worth keeping or labelling: uncertain ones, unlike each other. Pure maths, no database.

Greedy k-centre (Gonzalez 1985; for choosing training samples: Sener and Savarese, "Active Learning for Convolutional
Neural Networks: A Core-Set Approach", ICLR 2018) takes again and again the sample that is farthest from all taken ones.
Here that distance is multiplied by the sample's uncertainty, as Zhdanov ("Diverse mini-batch Active Learning", 2019)
weighs his clusters: so neither a certain outlier nor the tenth view of one uncertain thing is taken early.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
# What the most certain sample still weighs, so that diversity alone decides among certain ones.
_FLOOR = 0.01


def uncertainty(probabilities: Floats, predictions: NDArray[np.int64]) -> Floats:
    """How much a sample may teach, in [0, 1]: the mean of the entropy, over its largest value, and of the disagreement.

    Args:
        probabilities: the teacher's, float32 [N, C], C at least 2.
        predictions: the edge's labels, int64 [N].

    Returns:
        float32 [N]. Disagreement is what the teacher gives to other labels than the edge's.
    """
    safe = np.clip(probabilities, 1e-12, 1.0)
    entropy = -(safe * np.log(safe)).sum(axis=1) / np.log(probabilities.shape[1])
    inside = predictions < probabilities.shape[1]
    edge = probabilities[np.arange(len(predictions)), np.where(inside, predictions, 0)]
    disagreement = 1.0 - np.where(inside, edge, 0.0)
    found: Floats = np.clip((entropy + disagreement) / 2.0, 0.0, 1.0).astype(np.float32)
    return found


def choose(
    embeddings: Floats,
    weight: Floats,
    labels: NDArray[np.int64],
    *,
    limit: int,
    per_class: int | None = None,
) -> list[int]:
    """Indices of at most `limit` samples, the most informative first.

    Args:
        embeddings: float32 [N, E], of length 1; E = 0: diversity is not known, weight alone decides.
        weight: float32 [N], not negative.
        labels: int64 [N].
        per_class: at most this many of one label.
    """
    scale = np.maximum(weight, 0.0) + _FLOOR
    # Cosine distance to the nearest taken sample; the largest there is while none is taken.
    nearest = np.full(len(scale), 2.0, np.float32)
    free = np.ones(len(scale), bool)
    taken: list[int] = []
    counts: dict[int, int] = {}
    while len(taken) < min(limit, len(scale)) and free.any():
        # Equally good ones in order of their place; a copy of a taken one comes after everything else.
        best = int(np.where(free, nearest * scale, -1.0).argmax())
        taken.append(best)
        free[best] = False
        label = int(labels[best])
        counts[label] = counts.get(label, 0) + 1
        if per_class is not None and counts[label] >= per_class:
            free &= labels != label
        if embeddings.shape[1]:
            nearest = np.minimum(nearest, np.maximum(1.0 - embeddings @ embeddings[best], 0.0))
    return taken
