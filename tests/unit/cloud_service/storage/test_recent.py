"""Which recent sample a new one is like: a bounded memory."""

from uuid import UUID

import numpy as np

from cloud_service.storage.recent import Recent


def towards(degrees: float) -> np.ndarray:
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], np.float32)


def test_nearest_of_the_same_device_and_label_within_the_distance_is_found():
    recent = Recent()
    for number, degrees in enumerate((0, 10, 90)):
        recent.add("cam-1", UUID(int=number), 4, towards(degrees))
    assert recent.like("cam-1", 4, towards(8), within=0.01) == UUID(int=1)
    assert recent.like("cam-1", 4, towards(8), within=0.0001) is None
    assert recent.like("cam-2", 4, towards(8), within=0.01) is None
    assert recent.like("cam-1", 5, towards(8), within=0.01) is None


def test_embedding_of_another_width_is_like_none():
    recent = Recent()
    recent.add("cam-1", UUID(int=0), 4, np.array([1, 0, 0], np.float32))
    assert recent.like("cam-1", 4, towards(0), within=0.5) is None


def test_oldest_sample_of_a_device_is_forgotten_first():
    recent = Recent(per_device=2)
    for number, degrees in enumerate((0, 90, 180)):
        recent.add("cam-1", UUID(int=number), 4, towards(degrees))
    assert recent.like("cam-1", 4, towards(0), within=0.01) is None
    assert recent.like("cam-1", 4, towards(90), within=0.01) == UUID(int=1)


def test_device_that_was_silent_longest_is_forgotten_first():
    recent = Recent(devices=2)
    for number, device in enumerate(("a", "b", "a", "c")):
        recent.add(device, UUID(int=number), 4, towards(0))
    assert recent.like("b", 4, towards(0), within=0.01) is None
    assert recent.like("a", 4, towards(0), within=0.01) is not None
    assert recent.like("c", 4, towards(0), within=0.01) is not None
