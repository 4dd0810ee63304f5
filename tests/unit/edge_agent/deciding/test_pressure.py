import math
import random
from dataclasses import replace
from itertools import pairwise

import pytest

from edge_agent.deciding.pressure import LADDERS, Cause, Measure, Pressure, Readings
from edge_agent.deciding.settings import PressureSettings

# A device that lacks nothing, and one reading of each cause that presses.
CALM = Readings(
    battery=0.9, charging=False, temperature_c=45.0, cpu=0.2, memory=0.5, disk=0.3, round_trip_s=0.05, metered=False
)
PRESSING = {
    Cause.BATTERY: {"battery": 0.3},
    Cause.TEMPERATURE: {"temperature_c": 80.0},
    Cause.CPU: {"cpu": 0.95},
    Cause.MEMORY: {"memory": 0.95},
    Cause.DISK: {"disk": 0.95},
    Cause.LINK_METERED: {"metered": True},
    Cause.LINK_SLOW: {"round_trip_s": 2.0},
}
BETWEEN = {
    Cause.BATTERY: {"battery": 0.35},
    Cause.TEMPERATURE: {"temperature_c": 75.0},
    Cause.CPU: {"cpu": 0.9},
    Cause.MEMORY: {"memory": 0.93},
    Cause.DISK: {"disk": 0.93},
    Cause.LINK_METERED: {"metered": False, "link_up": False},
    Cause.LINK_SLOW: {"round_trip_s": 1.5},
}
ENDED = {
    Cause.BATTERY: {"battery": 0.4},
    Cause.TEMPERATURE: {"temperature_c": 70.0},
    Cause.CPU: {"cpu": 0.8},
    Cause.MEMORY: {"memory": 0.9},
    Cause.DISK: {"disk": 0.9},
    Cause.LINK_METERED: {"metered": False},
    Cause.LINK_SLOW: {"round_trip_s": 1.0},
}
UNKNOWN = {
    Cause.BATTERY: {"battery": None, "charging": None},
    Cause.TEMPERATURE: {"temperature_c": None},
    Cause.CPU: {"cpu": None},
    Cause.MEMORY: {"memory": None},
    Cause.DISK: {"disk": None},
    Cause.LINK_METERED: {"link_up": False},
    Cause.LINK_SLOW: {"round_trip_s": None},
}
QUICK = PressureSettings(climb_s=60.0, relax_s=120.0, metered_at_once=False)
AT_ONCE = PressureSettings(climb_s=60.0, relax_s=120.0)
AUDITS, DEFER, MODEL, SAMPLING, DROP = Measure


class Played:
    """Readings played through a `Pressure`, one a second, and what became of the measures."""

    def __init__(self, settings=QUICK, **options):
        self.pressure = Pressure(settings, **options)
        self.now_s = 1000.0
        self.history = [frozenset()]

    def play(self, *, seconds=1, **fields):
        for _ in range(seconds):
            self.observe(replace(CALM, **fields))
        return self

    def observe(self, readings, step_s=1.0):
        changed = self.pressure.observe(readings, self.now_s)
        self.now_s += step_s
        assert changed == (self.pressure.measures != self.history[-1])
        if changed:
            self.history.append(self.pressure.measures)

    @property
    def measures(self):
        return self.pressure.measures

    @property
    def changes(self):
        return len(self.history) - 1


def test_ladders_are_in_the_order_in_which_a_person_would_give_things_up():
    assert set(LADDERS) == set(Cause)
    order = list(Measure)
    for ladder in LADDERS.values():
        assert [order.index(measure) for measure in ladder] == sorted({order.index(measure) for measure in ladder})


def test_ladders_never_fill_a_full_disk_and_never_compute_less_for_the_link():
    assert DEFER not in LADDERS[Cause.DISK]
    for cause in (Cause.LINK_METERED, Cause.LINK_SLOW):
        assert set(LADDERS[cause]) == {AUDITS, DEFER}
    for cause, ladder in LADDERS.items():
        assert DROP not in ladder or cause in {Cause.DISK, Cause.TEMPERATURE}


def test_nothing_is_short_nothing_is_done():
    played = Played().play(seconds=1000)
    assert (played.measures, played.pressure.causes, played.changes) == (frozenset(), frozenset(), 0)


@pytest.mark.parametrize("cause", Cause)
def test_pressing_cause_takes_one_measure_at_once_and_one_more_after_each_climb(cause):
    played, ladder = Played(), LADDERS[cause]
    for height in range(1, len(ladder) + 1):
        played.play(seconds=1, **PRESSING[cause])
        assert played.measures == frozenset(ladder[:height])
        assert played.pressure.causes == {cause}
        played.play(seconds=59, **PRESSING[cause])
        assert played.measures == frozenset(ladder[:height])
    played.play(seconds=1000, **PRESSING[cause])
    assert played.measures == frozenset(ladder)


@pytest.mark.parametrize("link_up", [True, False])
def test_metered_link_takes_all_its_measures_at_once_and_gives_them_up_one_by_one(link_up):
    played = Played(AT_ONCE).play(metered=True, link_up=link_up)
    assert played.measures == {AUDITS, DEFER}
    assert played.pressure.causes == {Cause.LINK_METERED}
    played.play(seconds=1000, metered=True, link_up=link_up).play(seconds=120)
    assert played.measures == {AUDITS, DEFER}
    assert played.play().measures == {AUDITS}
    assert played.play(seconds=120).measures == frozenset()
    assert played.changes == 3


@pytest.mark.parametrize("held", [BETWEEN, UNKNOWN], ids=["between the thresholds", "sensor lost"])
@pytest.mark.parametrize("cause", Cause)
def test_cause_that_is_neither_pressing_nor_ended_leaves_everything_as_it_is(cause, held):
    assert Played().play(seconds=1000, **held[cause]).changes == 0
    played = Played().play(seconds=61, **PRESSING[cause])
    before = played.measures
    played.play(seconds=1000, **held[cause])
    assert (played.measures, played.pressure.causes) == (before, {cause})


@pytest.mark.parametrize("cause", Cause)
def test_ended_cause_gives_up_one_measure_after_each_relax(cause):
    played, ladder = Played(), LADDERS[cause]
    played.play(seconds=1000, **PRESSING[cause])
    played.play(**ENDED[cause])
    assert played.pressure.causes == frozenset()
    for height in range(len(ladder), 0, -1):
        played.play(seconds=119, **ENDED[cause])
        assert played.measures == frozenset(ladder[:height])
        played.play(**ENDED[cause])
        assert played.measures == frozenset(ladder[: height - 1])
    assert played.play(seconds=1000, **ENDED[cause]).changes == 2 * len(ladder)


def test_device_without_any_sensor_does_everything():
    played = Played()
    for _ in range(1000):
        played.observe(Readings(link_up=False))
    assert played.changes == 0


def test_round_trip_of_a_link_that_is_down_says_nothing():
    assert Played().play(seconds=200, round_trip_s=9.0, link_up=False).changes == 0
    played = Played().play(round_trip_s=9.0).play(seconds=500, round_trip_s=0.1, link_up=False)
    assert played.measures == {AUDITS}


def test_reading_that_is_no_number_changes_nothing():
    assert Played().play(seconds=500, temperature_c=math.nan, battery=math.nan).changes == 0


def test_measures_of_several_causes_add_up():
    played = Played().play(seconds=61, disk=0.99, metered=True)
    assert played.measures == {AUDITS, DEFER, DROP}
    assert played.pressure.causes == {Cause.DISK, Cause.LINK_METERED}
    played.play(seconds=400, disk=0.99)
    assert played.measures == {AUDITS, DROP}


def test_measure_that_the_device_cannot_take_costs_no_time():
    played = Played(unavailable=frozenset({MODEL})).play(seconds=61, memory=0.99)
    assert played.measures == {SAMPLING}
    none = Played(unavailable=frozenset({MODEL, SAMPLING})).play(seconds=1000, memory=0.99)
    assert (none.changes, none.pressure.causes) == (0, {Cause.MEMORY})


@pytest.mark.parametrize("charging", [False, None])
def test_battery_presses_while_nothing_says_that_it_is_charging(charging):
    assert Played().play(battery=0.05, charging=charging).measures == {AUDITS}


def test_battery_that_charges_presses_at_no_level():
    assert Played().play(seconds=1000, battery=0.02, charging=True).changes == 0


def test_trace_of_a_day_on_battery_each_measure_acts_once_and_mains_give_all_back():
    # Discharges over 10 h, lies empty for an hour, is charged from mains for 4 h; read every 10 s.
    played = Played()
    at = {}
    for minute in range(15 * 60):
        level = max(1.0 - minute / 600, 0.02) if minute < 660 else 0.02 + (minute - 660) / 240
        for _ in range(6):
            noisy = min(1.0, level + 0.004 * math.sin(played.now_s))
            played.observe(replace(CALM, battery=noisy, charging=minute >= 660), step_s=10.0)
        at[minute] = played.measures
    assert at[415] == frozenset()
    assert at[425] == at[659] == {AUDITS, DEFER, MODEL, SAMPLING}
    assert at[660 + 8] == frozenset()
    assert played.changes == 8


def test_trace_of_a_saw_tooth_around_a_threshold_does_not_flap():
    # 78–82 °C every 10 s for an hour: it is too hot all the time, and cooler than 80 half of it.
    played = Played()
    for second in range(3600):
        played.play(temperature_c=78.0 + 4.0 * (second % 10) / 10)
    assert played.measures == set(LADDERS[Cause.TEMPERATURE])
    assert played.changes == 5


def test_trace_that_swings_through_both_thresholds_changes_nothing_after_the_first_measure():
    # A processor that is busy for 5 s of every 30 neither climbs nor relaxes.
    played = Played()
    for second in range(7200):
        played.play(cpu=1.0 if second % 30 < 5 else 0.3)
    assert (played.measures, played.changes) == ({AUDITS}, 1)


def test_trace_of_rare_spikes_never_climbs():
    played = Played()
    for second in range(7200):
        played.play(cpu=1.0 if second % 90 == 0 else 0.3)
    assert (played.measures, played.changes) == ({AUDITS}, 1)


def test_trace_of_a_flapping_link_does_not_flap():
    # Between a metered and a free link every few seconds, down in between, for an hour; then it stays free.
    played, rng = Played(), random.Random(3)
    for _ in range(600):
        played.play(seconds=rng.randint(1, 8), metered=rng.random() < 0.5, link_up=rng.random() < 0.8)
    assert played.measures in ({AUDITS}, {AUDITS, DEFER})
    assert played.changes <= 2
    played.play(seconds=300)
    assert played.measures == frozenset()
    assert played.changes <= 4


def test_trace_of_noise_everywhere_moves_one_measure_at_a_time_and_seldom():
    played, rng = Played(), random.Random(4)
    for second in range(4 * 3600):
        hot = 62 + 22 * math.sin(second / 2300) + rng.gauss(0, 2)
        slow = max(0.0, 1.2 + 1.2 * math.sin(second / 1500) + rng.gauss(0, 0.3))
        played.play(temperature_c=hot, round_trip_s=slow, cpu=min(1.0, max(0.0, rng.gauss(0.6, 0.1))))
    for before, after in pairwise(played.history):
        assert len(before ^ after) == 1
    assert 10 <= played.changes <= 40
