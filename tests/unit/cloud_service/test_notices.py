import logging

from cloud_service.notices import Outage, Recurring
from tests.sim.clock import SimulatedClock

log = logging.getLogger("notices-test")


def test_outage_is_logged_once_and_its_end_once(caplog):
    caplog.set_level(logging.INFO)
    outage = Outage(log, "over")
    outage.end()
    for _ in range(3):
        outage.begin("down")
    assert outage.active
    for _ in range(3):
        outage.end()
    outage.begin("down again")
    assert [record.message for record in caplog.records] == ["down", "over", "down again"]


def test_recurring_faults_are_counted_each_time_and_logged_once_and_then_in_one_line_a_minute(caplog):
    clock = SimulatedClock()
    faults = Recurring(log, clock=clock)
    for second in range(150):
        clock.advance(1)
        faults.note("bad", f"bad frame {second}")
        if second < 50:
            faults.note("odd", f"odd frame {second}")
        faults.summarise()
    assert faults.counts == {"bad": 150, "odd": 50}
    assert [record.message for record in caplog.records] == [
        "bad frame 0",
        "odd frame 0",
        "in the last 60 s also: bad 61, odd 49; the latest: bad frame 61",
        "in the last 60 s also: bad 61; the latest: bad frame 122",
    ]


def test_recurring_fault_that_stopped_is_summed_up_all_the_same_and_begins_anew_after_a_quiet_minute(caplog):
    clock = SimulatedClock()
    faults = Recurring(log, clock=clock)
    for _ in range(3):
        faults.note("bad", "bad")
    for _ in range(200):
        clock.advance(1)
        faults.summarise()
    faults.note("bad", "bad again")
    assert [record.message for record in caplog.records] == [
        "bad",
        "in the last 60 s also: bad 2; the latest: bad",
        "bad again",
    ]


def test_what_a_device_says_is_not_logged_at_any_length(caplog):
    clock = SimulatedClock()
    faults = Recurring(log, clock=clock)
    for _ in range(2):
        faults.note("topic", "x" * 60_000)
    clock.advance(61)
    faults.summarise()
    assert [len(record.message) < 700 for record in caplog.records] == [True, True]
    assert all("60,000 characters" in record.message for record in caplog.records)
