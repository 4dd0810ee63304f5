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


def test_recurring_fault_is_logged_once_a_minute_and_counted_each_time(caplog):
    clock = SimulatedClock()
    faults = Recurring(log, clock=clock)
    for seconds in (0, 1, 1, 1, 60):
        clock.advance(seconds)
        faults.note("bad", "a bad frame")
    faults.note("other", "another kind")
    assert faults.counts == {"bad": 5, "other": 1}
    assert [record.message for record in caplog.records] == [
        "a bad frame",
        "a bad frame (and 3 more of the kind since)",
        "another kind",
    ]
