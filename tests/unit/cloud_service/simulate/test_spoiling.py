import tracemalloc
from random import Random

import pytest

from cloud_service.simulate.spoiling import Spoilt, spoil
from shared import messages
from shared.errors import FrameError
from tests.sim.bundles import sample
from tests.sim.device import header

FRAME = messages.encode_sample(header(), sample(3))


@pytest.mark.parametrize("kind", [kind for kind in Spoilt if kind is not Spoilt.FLIPPED])
def test_spoilt_frame_is_refused_without_memory(kind):
    rng = Random(5)
    for _ in range(20):
        frame = spoil(FRAME, kind, rng)
        tracemalloc.start()
        with pytest.raises(FrameError):
            messages.decode_sample(frame)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4_000_000


def test_flipped_frames_differ_in_a_few_bits_and_most_are_refused():
    rng, refused = Random(6), 0
    for _ in range(300):
        frame = spoil(FRAME, Spoilt.FLIPPED, rng)
        assert len(frame) == len(FRAME)
        assert 1 <= sum((a ^ b).bit_count() for a, b in zip(frame, FRAME, strict=True)) <= 8
        try:
            messages.decode_sample(frame)
        except FrameError:
            refused += 1
    assert refused > 200
