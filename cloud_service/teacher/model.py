"""What a teacher gives, and how several answers become one: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.uncertainty import divided, softmax

Array = NDArray[Any]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Outputs:
    """A model's answers to N samples.

    Attributes:
        logits: float32 [N, C]; their softmax is the answer.
        embedding: float32 [N, E], as the model gives it; None: it gives none.
        disagreement: float32 [N], see `mix`; None where one model looked once.
    """

    logits: Floats
    embedding: Floats | None = None
    disagreement: Floats | None = None


Network = Callable[[Array], Outputs]
"""Raw samples [N, *shape] to N answers."""


class Row(NamedTuple):
    """One sample's answer: its row of `Outputs`, the embedding L2-normalised."""

    logits: Floats
    embedding: Floats | None = None
    disagreement: float | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """A teacher that is ready.

    Attributes:
        version: names everything that decides its answers.
        infer: raw samples [N, *shape] to logits float32 [N, C], or to `Outputs`; is never called concurrently.
        max_batch: largest N worth feeding.
        window_s: how long a lone sample waits for others; 0 on a CPU, where company gains little.
        temperature: what its logits were divided by, already; 1 where its members differ in that.
    """

    version: str
    infer: Callable[[Array], Array | Outputs]
    max_batch: int = 8
    window_s: float = 0.0
    temperature: float = 1.0


def as_rows(outputs: Array | Outputs) -> list[Row]:
    """One row for each sample."""
    if not isinstance(outputs, Outputs):
        return [Row(logits) for logits in outputs]
    count = len(outputs.logits)
    embeddings = [None] * count if outputs.embedding is None else list(normalised(outputs.embedding))
    doubts = [None] * count if outputs.disagreement is None else outputs.disagreement.tolist()
    return [Row(*row) for row in zip(outputs.logits, embeddings, doubts, strict=True)]


def normalised(embedding: Floats) -> Floats:
    """Rows [N, E] of length 1 (L2); a row of zeros stays."""
    length = np.linalg.norm(embedding, axis=1, keepdims=True)
    return np.asarray(embedding / np.where(length > 0, length, 1.0), dtype=np.float32)


def mix(answers: Sequence[Floats], shares: Sequence[float]) -> tuple[Floats, Floats]:
    """The mean of several answers' probabilities, and how far they differ.

    Probabilities and not logits are averaged: logits of different networks have no common scale, so that the one with
    the largest would outvote the others; the mean of distributions is one (Lakshminarayanan et al. 2017). Views of one
    sample are averaged in the same way.

    Args:
        answers: M times logits [N, C].
        shares: M weights > 0.

    Returns:
        The logarithm of the mean probabilities, float32 [N, C]; and the mutual information between answer and answerer
        in nats, float32 [N]: H(mean) − mean of H, 0 where all agree, at most ln M (Smith and Gal 2018).
    """
    probabilities = np.stack([softmax(logits) for logits in answers]).astype(np.float64)
    mean = np.average(probabilities, axis=0, weights=shares)
    each = np.average(_entropy(probabilities), axis=0, weights=shares)
    with np.errstate(divide="ignore"):
        logits = np.log(mean).astype(np.float32)
    return logits, np.maximum(_entropy(mean) - each, 0.0).astype(np.float32)


def tempered(outputs: Outputs, temperature: float) -> Outputs:
    """The same with logits divided by a temperature."""
    return Outputs(divided(outputs.logits, temperature), outputs.embedding, outputs.disagreement)


def _entropy(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Σ −p·ln p over the last axis, 0 for p = 0."""
    parts = np.where(probabilities > 0, -probabilities * np.log(np.where(probabilities > 0, probabilities, 1.0)), 0.0)
    total: NDArray[np.float64] = np.where(np.isnan(probabilities), np.nan, parts).sum(axis=-1)
    return total
