import pytest

from edge_agent.sinks.callback import CallbackSink
from edge_agent.sinks.order import InOrder
from tests.sim.outcomes import correction, hard


@pytest.fixture
def told():
    return []


@pytest.fixture
def sink(told):
    return InOrder(CallbackSink(told.append, told.append))


def test_correction_that_is_faster_than_its_outcome_is_told_after_it(sink, told):
    outcome = hard()
    early = correction(sample_id=outcome.sample_id)
    sink.expect(outcome.sample_id)
    sink.correction(early)
    assert told == []
    sink.outcome(outcome)
    assert told == [outcome, early]


def test_correction_that_comes_later_is_told_at_once(sink, told):
    outcome = hard()
    sink.expect(outcome.sample_id)
    sink.outcome(outcome)
    late = correction(sample_id=outcome.sample_id)
    sink.correction(late)
    assert told == [outcome, late]


def test_correction_of_a_sample_of_an_earlier_run_is_told_at_once(sink, told):
    old = correction()
    sink.correction(old)
    assert told == [old]
