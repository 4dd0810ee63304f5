from uuid import UUID

import numpy as np
import pytest

from cloud_service.estimates.stream import Scored, Thinning, drawn
from tests.sim.field import Device


def hard(rng):
    return Scored(1, UUID(bytes=rng.bytes(16)), "cam-1", "digits", "v1", 0.9, False, 1.0, None)


def audit(rng, fraction=0.05):
    return Scored(1, UUID(bytes=rng.bytes(16)), "cam-1", "digits", "v1", 0.1, True, fraction, None)


def test_stream_has_the_mean_of_all_samples_and_the_uploads_do_not():
    rng = np.random.default_rng(1)
    device, thinning = Device(rng, fraction=0.1), Thinning()
    uploads = list(device.uploads(60_000))
    stream = [each.score for each in uploads if thinning.keeps(each)]
    everything = 1 / (1 + np.exp(-(-3.0 + 1.5 * rng.normal(size=200_000))))
    assert np.mean(stream) == pytest.approx(everything.mean(), abs=3 * everything.std() / len(stream) ** 0.5)
    assert np.mean([each.score for each in uploads]) > 2 * everything.mean()
    assert len(stream) == pytest.approx(6_000, rel=0.05)


def test_choice_is_the_samples_own():
    rng = np.random.default_rng(2)
    first, second = Thinning(), Thinning()
    one = audit(rng)
    assert first.keeps(one)
    assert second.keeps(one)
    samples = [hard(rng) for _ in range(2_000)]
    kept = [first.keeps(each) for each in samples]
    assert kept == [second.keeps(each) for each in samples]
    assert sum(kept) == pytest.approx(100, abs=30)


def test_numbers_are_even_and_one_a_sample():
    rng = np.random.default_rng(3)
    numbers = [drawn(UUID(bytes=rng.bytes(16))) for _ in range(4_000)]
    assert np.histogram(numbers, bins=4, range=(0, 1))[0] == pytest.approx(1_000, abs=100)
    assert drawn(UUID(int=5)) == drawn(UUID(int=5))


def test_nothing_hard_passes_before_the_first_audit_tells_the_fraction():
    rng = np.random.default_rng(4)
    thinning = Thinning()
    assert not any(thinning.keeps(hard(rng)) for _ in range(200))
    assert thinning.keeps(audit(rng, 1.0))
    assert all(thinning.keeps(hard(rng)) for _ in range(200))
    assert thinning.keeps(audit(rng, 0.5))
    assert sum(thinning.keeps(hard(rng)) for _ in range(200)) == pytest.approx(100, abs=30)
