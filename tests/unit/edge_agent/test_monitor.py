from edge_agent.deciding.policy import Circumstances
from edge_agent.deciding.pressure import Measure, Readings
from edge_agent.deciding.settings import PressureSettings
from edge_agent.monitor import Monitor
from tests.harness import eventually
from tests.sim.clock import SimulatedClock

FINE = Readings(battery=0.9, charging=False, temperature_c=40.0, cpu=0.2, memory=0.3, disk=0.4)
HOT = Readings(battery=0.9, charging=False, temperature_c=95.0, cpu=0.2, memory=0.3, disk=0.4)
SETTINGS = PressureSettings(climb_s=60.0, relax_s=60.0, audits_factor=0.1, sampling_factor=4, interval_s=0.001)


class Adapting:
    """A task that notes what it is told."""

    def __init__(self):
        self.circumstances = []
        self.small = []

    def under(self, circumstances):
        self.circumstances.append(circumstances)

    def use_small_model(self, wanted):
        self.small.append(wanted)


class Device:
    """A monitor on sensors that a test sets."""

    def __init__(self, settings=SETTINGS, **options):
        self.clock, self.task, self.readings = SimulatedClock(), Adapting(), FINE
        self.monitor = Monitor(settings, [self.task], look=lambda: self.readings, clock=self.clock, **options)

    def look(self, readings, *, minutes=0):
        self.readings = readings
        return [(self.clock.advance(60.0), self.monitor.look())[1] for _ in range(minutes)] or [self.monitor.look()]


def test_monitor_takes_one_measure_after_the_other_and_tells_the_tasks(caplog):
    device = Device()
    assert device.look(FINE) == [False]
    assert device.task.circumstances == []
    device.look(HOT)
    assert device.task.circumstances == [Circumstances(audits_factor=0.1)]
    assert device.monitor.sends_deferred()
    device.look(HOT, minutes=1)
    assert device.task.circumstances[-1] == Circumstances(audits_factor=0.1, defer_training=True)
    assert not device.monitor.sends_deferred()
    assert device.monitor.sampling_factor == 1
    assert device.look(HOT, minutes=1) == [True]
    device.look(HOT, minutes=1)
    assert device.monitor.sampling_factor == 4
    device.look(HOT, minutes=1)
    assert device.task.circumstances[-1] == Circumstances(audits_factor=0.1, defer_training=True, drop=True)
    assert caplog.text.count("temperature") == 5
    told = len(device.task.circumstances)
    device.look(HOT, minutes=10)
    assert len(device.task.circumstances) == told


def test_monitor_tells_of_each_change_after_it_counts_and_of_nothing_else():
    told = []
    device = Device(changed=lambda: told.append((device.monitor.sends_deferred(), len(device.task.circumstances))))
    device.look(FINE)
    device.look(HOT)
    device.look(HOT)
    assert told == [(True, 1)]
    device.look(HOT, minutes=1)
    assert told == [(True, 1), (False, 2)]
    device.look(FINE, minutes=4)
    assert told[2:] == [(True, 3), (True, 4)]


def test_monitor_says_when_all_is_well_again(caplog):
    caplog.set_level("INFO")
    device = Device()
    device.look(HOT)
    device.look(HOT, minutes=5)
    device.look(FINE, minutes=10)
    assert device.task.circumstances[-1] == Circumstances()
    assert device.monitor.sampling_factor == 1
    assert device.monitor.sends_deferred()
    assert caplog.text.count("no pressure any more") == 1


def test_monitor_reports_what_the_sensors_said_and_what_is_done():
    device = Device()
    assert device.monitor.conditions().battery is None
    device.look(HOT)
    conditions = device.monitor.conditions()
    assert (conditions.battery, conditions.charging, conditions.temperature_c) == (0.9, False, 95.0)
    assert conditions.measures == ("fewer_audits",)


def test_monitor_without_a_smaller_model_goes_on_to_the_next_measure():
    device = Device(unavailable=frozenset({Measure.SMALLER_MODEL}))
    device.look(HOT)
    assert device.look(HOT, minutes=2) == [False, False]
    assert device.monitor.sampling_factor == 4


async def test_monitor_changes_models_beside_the_loop_and_back():
    import asyncio

    device = Device(PressureSettings(climb_s=0.0, relax_s=0.0, interval_s=0.001))
    watching = asyncio.create_task(device.monitor.run())
    try:
        device.readings = HOT
        await eventually(lambda: device.task.small == [True], timeout=10, what="the small model")
        device.readings = FINE
        await eventually(lambda: device.task.small == [True, False], timeout=10, what="the task's own model")
    finally:
        watching.cancel()
