import pytest

from shared.mqtt.round_trip import RoundTrip


def measured(*took_s):
    trip, now = RoundTrip(), 100.0
    for mid, seconds in enumerate(took_s, start=1):
        trip.left(mid, now)
        now += seconds
        trip.answered(mid, now)
    return trip, now


def test_nothing_is_known_before_the_first_answer():
    trip = RoundTrip()
    assert trip.seconds(1.0) is None
    trip.left(1, 1.0)
    assert trip.seconds(500.0) is None


def test_first_answer_counts_whole_and_the_later_ones_an_eighth():
    trip, now = measured(0.8)
    assert trip.seconds(now) == pytest.approx(0.8)
    trip, now = measured(0.8, 0.0)
    assert trip.seconds(now) == pytest.approx(0.7)


def test_answers_to_others_are_not_measured():
    trip = RoundTrip()
    trip.left(1, 10.0)
    trip.answered(2, 10.1)
    assert trip.seconds(10.1) is None
    trip.answered(1, 10.5)
    assert trip.seconds(10.5) == pytest.approx(0.5)
    trip.answered(1, 99.0)
    assert trip.seconds(99.0) == pytest.approx(0.5)


def test_broker_that_owes_an_answer_for_long_is_far_away():
    trip, now = measured(0.1)
    trip.left(9, now)
    assert trip.seconds(now + 0.05) == pytest.approx(0.1)
    assert trip.seconds(now + 30.0) == pytest.approx(30.0)
    trip.answered(9, now + 30.0)
    assert trip.seconds(now + 60.0) == pytest.approx(0.1 + 29.9 / 8)
