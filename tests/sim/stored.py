"""Samples and answers that the store's tests are told with."""

import numpy as np

from cloud_service.storage.samples import Answer, NewSample
from tests.sim.bundles import sample
from tests.sim.device import header


def new(label: int = 1, device: str = "cam-1", **changes) -> NewSample:
    """A sample whose payload tells its label; keyword arguments replace fields of its header."""
    return NewSample(device, header(**changes), sample(label))


def says(label: int, teacher: str = "t1", *, embedding=None, sure: float = 0.91) -> Answer:
    """What a teacher of ten labels says; `embedding` is scaled to length 1."""
    probabilities = np.full(10, (1 - sure) / 9, np.float32)
    probabilities[label] = sure
    if embedding is not None:
        embedding = np.array(embedding, np.float32)
        embedding /= np.linalg.norm(embedding)
    return Answer(probabilities, teacher, embedding)
