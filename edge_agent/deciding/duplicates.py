"""Does a sample look like one that went up lately? Pure: embeddings and the time in, distances out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.deciding.settings import DuplicateSettings

# Opposite directions: as far as two embeddings can be from each other.
FARTHEST = 2.0


class RecentlySent:
    """The embeddings of the samples that went up last, each remembered for a while.

    An embedding that is zero, or holds NaN or infinity, has no direction: it is like no other and is not remembered.
    """

    def __init__(self, settings: DuplicateSettings) -> None:
        self._settings = settings
        # A ring of unit vectors [remember, E], made when the first one tells E, and when each was sent.
        self._units = np.empty((settings.remember, 0), dtype=np.float32)
        self._sent_s = np.full(settings.remember, -np.inf)
        self._next = 0

    def nearest(self, embedding: NDArray[Any], now_s: float) -> float:
        """Cosine distance in [0, 2] to the nearest that is remembered, 2 when there is none; it is the sample's rarity.

        Args:
            embedding: the model's, of any shape.
            now_s: a time that never goes back.
        """
        unit = _direction(embedding)
        if unit is None or unit.size != self._units.shape[1]:
            return FARTHEST
        likeness = self._units @ unit
        likeness[now_s - self._sent_s > self._settings.for_s] = -1.0
        return min(max(1.0 - float(likeness.max()), 0.0), FARTHEST)

    def is_duplicate(self, distance: float) -> bool:
        """Whether a sample at that distance from the nearest is taken for the same."""
        return self._settings.distance > 0.0 and distance <= self._settings.distance

    def remember(self, embedding: NDArray[Any], now_s: float) -> None:
        """A sample with this embedding goes up: it takes the place of the oldest."""
        unit = _direction(embedding)
        if unit is None:
            return
        if unit.size != self._units.shape[1]:
            self._units = np.zeros((self._settings.remember, unit.size), dtype=np.float32)
            self._sent_s.fill(-np.inf)
            self._next = 0
        self._units[self._next] = unit
        self._sent_s[self._next] = now_s
        self._next = (self._next + 1) % self._settings.remember

    def forget(self) -> None:
        """The model has changed: its embeddings mean something else, even where they are as long."""
        self._sent_s.fill(-np.inf)


def _direction(embedding: NDArray[Any]) -> NDArray[np.float32] | None:
    """The embedding as a unit vector, None when it has no direction."""
    # In float64 the squares of what float32 can hold do not overflow.
    values = embedding.ravel().astype(np.float64)
    length = math.sqrt(values.dot(values))
    return (values / length).astype(np.float32) if 0.0 < length < math.inf else None
