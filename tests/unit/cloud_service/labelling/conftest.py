"""A store with a few samples of the task digits."""

import numpy as np
import pytest

from cloud_service.storage.samples import Answer, NewSample
from tests.sim.bundles import sample
from tests.sim.device import header


@pytest.fixture
def stored(samples):
    """`await stored(n)` → the ids of n new samples: the edge says n mod 10, the teacher 3, unless told otherwise."""

    async def store(count, *, answered=True, tensors=None):
        made = [
            NewSample(
                "cam-1", header(seq=n, prediction=n % 10), sample(n % 10, value=n + 1) if tensors is None else each
            )
            for n, each in zip(range(count), tensors or [None] * count, strict=True)
        ]
        await samples.add(made)
        says = np.full(10, 0.05, np.float32)
        says[3] = 0.55
        ids = [each.header.sample_id for each in made]
        if answered:
            await samples.answer([(each, Answer(says, "t1")) for each in ids])
        return ids

    return store
