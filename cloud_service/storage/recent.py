"""Which recent sample of the same device a new one is like. No database: a bounded memory of embeddings.

Near-duplicates come close in time: a camera sees the same scene again. So a new sample is held against the last few of
its own device; after a restart, and between replicas, a duplicate may pass for a new sample, which costs its payload.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

# Embeddings of one device, and devices; what was heard of longest ago is forgotten first.
PER_DEVICE = 8
DEVICES = 1_000


@dataclass(frozen=True, slots=True)
class _Seen:
    id: UUID
    label: int
    embedding: NDArray[np.float16]


class Recent:
    """The last samples of each device, for one task."""

    def __init__(self, *, per_device: int = PER_DEVICE, devices: int = DEVICES) -> None:
        self._per_device = per_device
        self._devices = devices
        self._seen: OrderedDict[str, deque[_Seen]] = OrderedDict()

    def like(self, device: str, label: int, embedding: NDArray[np.float32], *, within: float) -> UUID | None:
        """The nearest one with the same label whose cosine distance is at most `within`; None: there is none.

        Args:
            embedding: float32 [E], of length 1.
        """
        seen = [
            one for one in self._seen.get(device, ()) if one.label == label and one.embedding.shape == embedding.shape
        ]
        if not seen:
            return None
        distances = 1.0 - np.stack([one.embedding for one in seen]).astype(np.float32) @ embedding
        nearest = int(distances.argmin())
        return seen[nearest].id if distances[nearest] <= within else None

    def add(self, device: str, sample_id: UUID, label: int, embedding: NDArray[np.float32]) -> None:
        """Remember a sample that is like none."""
        seen = self._seen.setdefault(device, deque(maxlen=self._per_device))
        seen.append(_Seen(sample_id, label, embedding.astype(np.float16)))
        self._seen.move_to_end(device)
        while len(self._seen) > self._devices:
            self._seen.popitem(last=False)
