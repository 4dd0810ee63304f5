"""A day of a device, played through sensors → pressure → policy: each rule acts when it should, and nothing flaps."""

from collections import Counter
from random import Random

import numpy as np

from edge_agent.deciding.pressure import Measure, Readings
from edge_agent.deciding.settings import DuplicateSettings, PressureSettings
from edge_agent.judge import Judge
from edge_agent.monitor import Monitor
from edge_agent.request import Request
from edge_agent.settings import TaskSettings
from shared.manifest import Manifest, TensorSpec
from shared.messages import Action, Reason
from tests.sim.clock import SimulatedClock

MANIFEST = Manifest(
    task="door", version="v1", labels=("a", "b"), input=TensorSpec(shape=(4,), dtype="uint8"), threshold=0.3
)
TASK = TaskSettings(bundle="b", audit_fraction=0.2, duplicates=DuplicateSettings(distance=0.0))
FINE = Readings(battery=0.9, charging=False, temperature_c=45.0, cpu=0.2, memory=0.3, disk=0.4, round_trip_s=0.05)
HOUR = 3600.0


class Device:
    """A monitor and a judge; each `live` reads the sensors every 10 s and answers as many samples, every other hard."""

    def __init__(self):
        self.clock, self.readings = SimulatedClock(), FINE
        self.judge = Judge(TASK, MANIFEST, rng=Random(1), clock=self.clock)
        self.monitor = Monitor(PressureSettings(), [self], look=lambda: self.readings, clock=self.clock)
        self.small, self.changes = [], 0

    def under(self, circumstances):
        self.changes += 1
        self.judge.under(circumstances)

    def use_small_model(self, wanted):
        self.small.append(wanted)

    def live(self, seconds, *, waited_for=False, **readings):
        """What became of the samples of this time."""
        told = Counter()
        for step in range(int(seconds / 10)):
            self.clock.advance(10.0)
            values = {name: value(step * 10.0) if callable(value) else value for name, value in readings.items()}
            self.readings = Readings(**{**FINE_VALUES, **values})
            if self.monitor.look():
                self.monitor._choose_models()
            logits = np.array([0.0, 0.1] if step % 2 else [9.0, 0.0], np.float32)
            judgement = self.judge.judge(
                Request(np.zeros(4, np.uint8)), logits, None, manifest=MANIFEST, waited_for=waited_for
            )
            if judgement.decision.goes_up:
                self.judge.settle(judgement, sent=True, size_bytes=4)
            told[judgement.decision.action, judgement.decision.reason] += 1
        return told

    @property
    def measures(self):
        return set(self.monitor.conditions().measures)


FINE_VALUES = {
    name: getattr(FINE, name) for name in ("battery", "charging", "temperature_c", "cpu", "memory", "disk")
} | {"round_trip_s": FINE.round_trip_s}


def falling(start, end, seconds):
    return lambda at: start + (end - start) * at / seconds


def test_day_on_battery_and_a_night_on_mains():
    device = Device()
    morning = device.live(4 * HOUR, battery=falling(1.0, 0.35, 4 * HOUR))
    assert set(morning) == {
        (Action.KEEP, Reason.CONFIDENT),
        (Action.OFFLOAD, Reason.HARD),
        (Action.OFFLOAD, Reason.AUDIT),
    }
    assert (device.measures, device.changes) == (set(), 0)
    device.live(HOUR, battery=falling(0.35, 0.2, HOUR))
    assert device.measures == {"fewer_audits", "defer_training", "smaller_model", "slower_sampling"}
    evening = device.live(2 * HOUR, battery=falling(0.2, 0.1, 2 * HOUR))
    assert evening[Action.OFFLOAD, Reason.HARD] == 0
    assert evening[Action.DEFER, Reason.HARD] == 2 * HOUR / 20
    assert evening[Action.DEFER, Reason.AUDIT] < morning[Action.OFFLOAD, Reason.AUDIT] / 2 * 0.3
    assert device.live(600, battery=0.1, waited_for=True)[Action.OFFLOAD, Reason.HARD] == 30  # verdicts are wanted now
    assert device.small == [True]
    night = device.live(2 * HOUR, battery=0.15, charging=True)
    assert night[Action.OFFLOAD, Reason.HARD] > 0.9 * HOUR / 10
    assert (device.measures, device.small, device.monitor.sampling_factor) == (set(), [True, False], 1)
    assert device.changes <= 2 * len(Measure)


def test_battery_that_hovers_around_the_threshold_changes_nothing_again_and_again():
    device = Device()
    rng = np.random.default_rng(3)
    device.live(12 * HOUR, battery=lambda at: 0.3 + rng.normal(0, 0.02))
    assert device.changes <= 4  # up the ladder, once


def test_heat_in_the_afternoon_ends_in_drops_and_passes():
    device = Device()
    device.live(HOUR, temperature_c=falling(45.0, 79.0, HOUR))
    assert device.changes == 0
    hot = device.live(HOUR, temperature_c=85.0)
    assert device.measures == {measure.value for measure in Measure}
    assert hot[Action.DROP, Reason.PRESSURE] > 0.8 * HOUR / 20
    held = device.live(HOUR, temperature_c=75.0)  # between the thresholds: everything stays
    assert held[Action.OFFLOAD, Reason.HARD] == held[Action.DEFER, Reason.HARD] == 0
    device.live(HOUR, temperature_c=60.0)
    assert device.measures == set()
    assert device.changes <= 2 * len(Measure)


def test_link_that_is_metered_on_the_road_and_free_at_home():
    device = Device()
    road = device.live(HOUR, metered=True)
    assert device.measures == {"fewer_audits", "defer_training"}
    assert road[Action.DEFER, Reason.HARD] > 0.9 * HOUR / 20
    assert not device.monitor.sends_deferred()
    home = device.live(HOUR, metered=False)
    assert home[Action.OFFLOAD, Reason.HARD] > 0.8 * HOUR / 20
    assert device.monitor.sends_deferred()


def test_link_that_goes_up_and_down_every_minute_takes_its_measures_once():
    device = Device()
    device.live(
        6 * HOUR, link_up=lambda at: at // 60 % 2 == 0, round_trip_s=lambda at: 3.0 if at // 60 % 4 < 2 else 0.1
    )
    assert device.changes <= 4


def test_device_without_sensors_lives_a_day_untouched():
    device = Device()
    nothing = dict.fromkeys(("battery", "charging", "temperature_c", "cpu", "memory", "disk", "round_trip_s"))
    told = device.live(8 * HOUR, **nothing)
    assert device.changes == 0
    assert told[Action.OFFLOAD, Reason.HARD] == 8 * HOUR / 20
