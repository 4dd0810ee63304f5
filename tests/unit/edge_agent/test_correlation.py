import threading

from edge_agent import correlation
from edge_agent.correlation import Correlation
from shared.ids import new_id
from shared.messages import Reason, SampleHeader
from tests.sim.clock import SimulatedClock
from tests.sim.cloud import verdict


def header():
    return SampleHeader(
        sample_id=new_id(), task="t", seq=1, bundle_version="v1", prediction=3, hardness=0.5, reason=Reason.HARD
    )


def test_verdict_between_asking_and_waiting_is_not_lost():
    asked, known = header(), Correlation()
    known.ask(asked, reference=None, deadline_s=5.0)
    delivered = known.deliver(verdict(asked, 4))
    assert delivered is not None
    assert delivered.verdict is not None
    got = known.wait(asked.sample_id)
    assert got is not None
    assert got.prediction == 4


def test_verdict_ends_the_wait():
    asked, known = header(), Correlation()
    known.ask(asked, reference="mine", deadline_s=30.0)
    got = []
    waiter = threading.Thread(target=lambda: got.append(known.wait(asked.sample_id)))
    waiter.start()
    delivered = known.deliver(verdict(asked, 4))
    waiter.join(5)
    assert [each.prediction for each in got] == [4]
    assert (delivered.reference, delivered.verdict.prediction) == ("mine", 4)


def test_verdict_after_the_deadline_is_nobodys_answer():
    clock = SimulatedClock()
    asked, known = header(), Correlation(monotonic=clock)
    known.ask(asked, reference=7, deadline_s=1.0)
    clock.advance(2.0)
    assert known.wait(asked.sample_id) is None
    delivered = known.deliver(verdict(asked))
    assert (delivered.reference, delivered.verdict) == (7, None)


def test_deliver_gives_each_sample_once():
    asked, known = header(), Correlation()
    known.ask(asked, reference=None, deadline_s=0.0)
    assert known.deliver(verdict(asked)).header == asked
    assert known.deliver(verdict(asked)) is None


def test_wait_for_a_sample_nobody_waits_for_returns_at_once():
    asked, known = header(), Correlation()
    known.ask(asked, reference=None, deadline_s=0.0)
    assert known.wait(asked.sample_id) is None
    assert known.wait(new_id()) is None


def test_deadline_ms_counts_down_and_ends():
    clock = SimulatedClock()
    asked, quiet, known = header(), header(), Correlation(monotonic=clock)
    known.ask(asked, reference=None, deadline_s=2.0)
    known.ask(quiet, reference=None, deadline_s=0.0)
    clock.advance(0.5)
    assert known.deadline_ms(asked.sample_id) == 1500
    clock.advance(9.0)
    assert known.deadline_ms(asked.sample_id) == 0
    known.wait(asked.sample_id)
    assert known.deadline_ms(asked.sample_id) is None
    assert known.deadline_ms(quiet.sample_id) is None
    assert known.deadline_ms(new_id()) is None


def test_forgotten_sample_is_unknown():
    asked, known = header(), Correlation()
    known.ask(asked, reference=None, deadline_s=1.0)
    known.forget(asked.sample_id)
    assert known.deliver(verdict(asked)) is None


def test_only_the_newest_are_remembered():
    known = Correlation()
    headers = [header() for _ in range(correlation.MAX_REMEMBERED + 1)]
    for each in headers:
        known.ask(each, reference=None, deadline_s=0.0)
    assert known.deliver(verdict(headers[0])) is None
    assert known.deliver(verdict(headers[1])).header == headers[1]


def test_endless_deadline_is_a_day_and_stops_nothing():
    asked, clock = header(), SimulatedClock()
    known = Correlation(monotonic=clock)
    known.ask(asked, reference=None, deadline_s=float("inf"))
    assert known.deadline_ms(asked.sample_id) == 86_400_000
    known.deliver(verdict(asked, 4))
    assert known.wait(asked.sample_id).prediction == 4
