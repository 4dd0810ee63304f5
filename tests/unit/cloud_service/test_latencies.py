"""Durations in buckets."""

from cloud_service.latencies import BOUNDS_S, Histogram, Latencies


def test_every_duration_is_in_the_first_bucket_that_holds_it():
    histogram = Histogram()
    for seconds in (0.0, 0.005, 0.0051, 1.0, 1800.0, 1800.1, -1.0):
        histogram.add(seconds)
    found = dict(histogram.cumulated())
    assert (found[0.005], found[0.01], found[0.5], found[1.0], found[1800.0], found[None]) == (3, 4, 4, 5, 6, 7)
    assert list(found) == [*BOUNDS_S, None]
    assert list(found.values()) == sorted(found.values())
    assert histogram.sum_s == 0.005 + 0.0051 + 1.0 + 1800.0 + 1800.1


def test_tasks_are_kept_apart():
    latencies = Latencies()
    latencies.note_stored("digits", 1.0)
    latencies.note_answered("digits", 2.0)
    latencies.note_answered("sounds", 3.0)
    assert {task: each.sum_s for task, each in latencies.stored.items()} == {"digits": 1.0}
    assert {task: each.sum_s for task, each in latencies.answered.items()} == {"digits": 2.0, "sounds": 3.0}
