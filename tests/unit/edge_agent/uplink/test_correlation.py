import threading
import time

from edge_agent.uplink import correlation
from edge_agent.uplink.correlation import Correlation
from shared.ids import new_id
from shared.messages import Reason, SampleHeader
from tests.sim.clock import SimulatedClock
from tests.sim.cloud import verdict


def header():
    return SampleHeader(
        sample_id=new_id(), task="t", seq=1, bundle_version="v1", prediction=3, hardness=0.5, reason=Reason.HARD
    )


def asked_with(seconds, *, reference=None):
    """A sample that somebody waits for, on a clock that stands still."""
    clock, asked = SimulatedClock(), header()
    known = Correlation(clock=clock)
    known.ask(asked, reference=reference, until_s=clock.now + seconds)
    return known, asked, clock


def asked_by_nobody():
    asked, known = header(), Correlation(clock=SimulatedClock())
    known.ask(asked, reference=None, until_s=None)
    return known, asked


def test_verdict_between_asking_and_waiting_is_not_lost():
    known, asked, _ = asked_with(5.0)
    delivered = known.deliver(verdict(asked, 4))
    assert delivered.verdict is not None
    assert known.wait(asked.sample_id).prediction == 4


def test_verdict_ends_the_wait():
    known, asked, _ = asked_with(30.0, reference="mine")
    got = []
    waiter = threading.Thread(target=lambda: got.append(known.wait(asked.sample_id)))
    waiter.start()
    delivered = known.deliver(verdict(asked, 4))
    waiter.join(5)
    assert [each.prediction for each in got] == [4]
    assert (delivered.reference, delivered.verdict.prediction) == ("mine", 4)


def test_verdict_after_the_deadline_is_nobodys_answer():
    known, asked, clock = asked_with(1.0, reference=7)
    clock.advance(2.0)
    assert known.wait(asked.sample_id) is None
    assert not known.wake(verdict(asked))
    delivered = known.deliver(verdict(asked))
    assert (delivered.reference, delivered.verdict) == (7, None)


def test_wait_counts_from_the_moment_that_the_caller_named():
    known = Correlation()
    asked = header()
    began = time.perf_counter()
    time.sleep(0.3)  # what the caller did before asking is part of the deadline
    known.ask(asked, reference=None, until_s=began + 0.5)
    assert known.wait(asked.sample_id) is None
    assert 0.5 <= time.perf_counter() - began < 0.78


def test_woken_caller_has_the_verdict_before_it_is_delivered():
    known, asked, _ = asked_with(30.0, reference="mine")
    assert known.wake(verdict(asked, 4))
    assert known.wait(asked.sample_id).prediction == 4
    delivered = known.deliver(verdict(asked, 4))
    assert (delivered.reference, delivered.verdict.prediction) == ("mine", 4)
    assert known.deliver(verdict(asked, 4)) is None


def test_only_the_first_verdict_wakes():
    known, asked, _ = asked_with(30.0)
    assert known.wake(verdict(asked, 4))
    assert not known.wake(verdict(asked, 5))
    known.deliver(verdict(asked, 5))
    assert known.wait(asked.sample_id).prediction == 4


def test_nobody_is_woken_for_a_sample_that_nobody_waits_for():
    known, asked = asked_by_nobody()
    assert not known.wake(verdict(asked))
    assert not known.wake(verdict(header()))


def test_deliver_gives_each_sample_once():
    known, asked = asked_by_nobody()
    assert known.deliver(verdict(asked)).header == asked
    assert known.deliver(verdict(asked)) is None
    waited, other, _ = asked_with(5.0)
    assert waited.deliver(verdict(other)) is not None
    assert waited.deliver(verdict(other)) is None


def test_wait_for_a_sample_nobody_waits_for_returns_at_once():
    known, asked = asked_by_nobody()
    assert known.wait(asked.sample_id) is None
    assert known.wait(new_id()) is None


def test_deadline_ms_counts_down_and_ends():
    known, asked, clock = asked_with(2.0)
    clock.advance(0.5)
    assert known.deadline_ms(asked.sample_id) == 1500
    clock.advance(9.0)
    assert known.deadline_ms(asked.sample_id) == 0
    known.wait(asked.sample_id)
    assert known.deadline_ms(asked.sample_id) is None
    assert known.deadline_ms(new_id()) is None
    quiet, nobodys = asked_by_nobody()
    assert quiet.deadline_ms(nobodys.sample_id) is None


def test_forgotten_sample_is_unknown():
    known, asked, _ = asked_with(1.0)
    known.forget(asked.sample_id)
    assert known.deliver(verdict(asked)) is None


def test_only_the_newest_are_remembered():
    known = Correlation(clock=SimulatedClock())
    headers = [header() for _ in range(correlation.MAX_REMEMBERED + 1)]
    for each in headers:
        known.ask(each, reference=None, until_s=None)
    assert known.deliver(verdict(headers[0])) is None
    assert known.deliver(verdict(headers[1])).header == headers[1]


def test_answered_samples_are_not_remembered():
    known = Correlation(clock=SimulatedClock())
    for _ in range(100):
        asked = header()
        known.ask(asked, reference=None, until_s=2_000.0)
        known.wake(verdict(asked))
        known.wait(asked.sample_id)
        known.deliver(verdict(asked))
    assert len(known._asked) == 0


def test_endless_deadline_is_a_day_and_stops_nothing():
    known, asked, _ = asked_with(float("inf"))
    assert known.deadline_ms(asked.sample_id) == 86_400_000
    known.deliver(verdict(asked, 4))
    assert known.wait(asked.sample_id).prediction == 4
