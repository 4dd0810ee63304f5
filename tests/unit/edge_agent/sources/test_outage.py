import random
import threading

import pytest

from edge_agent.sources.outage import Outage
from edge_agent.sources.settings import CameraSettings
from tests.sim.clock import SimulatedClock
from tests.sim.sources import Watched


class StopStandIn(threading.Event):
    """Writes down how long it was waited on, and does not wait."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def wait(self, timeout=None):
        self.waits.append(timeout)
        return self.is_set()


class Longest(random.Random):
    """Draws the longest wait of what is allowed."""

    def uniform(self, a, b):
        return b


@pytest.fixture
def clock():
    return SimulatedClock()


@pytest.fixture
def stop():
    return StopStandIn()


@pytest.fixture
def outage(stop, clock):
    settings = CameraSettings(kind="camera", retry_first_s=1.0, retry_cap_s=8.0)
    return Outage(settings, Watched().context, stop, clock=clock, rng=Longest())


def test_outage_is_said_once_and_its_end_once(outage, caplog):
    caplog.set_level("INFO")
    for _ in range(3):
        assert outage.wait("no picture")
    outage.there()
    outage.there()
    said = [record.message for record in caplog.records]
    assert said == [
        "task digits: source-0: no picture; trying again until it is there",
        "task digits: source-0 is there again",
    ]


def test_what_was_never_away_is_not_said_to_be_back(outage, caplog):
    caplog.set_level("INFO")
    outage.there()
    assert caplog.records == []


def test_waits_grow_to_their_cap(outage, stop):
    for _ in range(6):
        outage.wait("away")
    assert stop.waits == [1, 2, 4, 8, 8, 8]


def test_waits_are_drawn_at_random(stop):
    settings = CameraSettings(kind="camera", retry_first_s=8.0, retry_cap_s=8.0)
    outage = Outage(settings, Watched().context, stop)
    for _ in range(50):
        outage.wait("away")
    assert len(set(stop.waits)) == 50
    assert all(0 <= wait <= 8 for wait in stop.waits)


def test_waits_start_anew_only_after_it_was_there_for_longer_than_the_last(outage, stop, clock):
    for _ in range(4):
        outage.wait("away")  # the last bound is 8 s
    outage.there()
    clock.advance(7)
    outage.wait("away")
    outage.there()
    clock.advance(9)
    outage.wait("away")
    assert stop.waits == [1, 2, 4, 8, 8, 1]


def test_wait_says_that_it_was_stopped(outage, stop):
    stop.set()
    assert not outage.wait("away")
