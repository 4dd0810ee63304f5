import pytest

from edge_agent.deciding.agreement import WINDOW, Estimate, Verdicts, estimate
from shared.intervals import wilson


def verdicts(pattern):
    found = Verdicts()
    for mark in pattern:
        found.add(agreed=mark != "x")
    return found


def test_verdicts_count_what_differs():
    found = verdicts("..x.x")
    assert (len(found), found.differing) == (5, 0.4)
    assert found.bounds == wilson(2, 5)


def test_verdicts_forget_the_oldest_of_too_many():
    found = verdicts("x" * 10 + "." * WINDOW)
    assert (len(found), found.differing) == (WINDOW, 0.0)
    assert verdicts("." * 10 + "x" * WINDOW).differing == 1.0


def test_verdicts_go_on_from_their_record():
    found = verdicts("x..x" * 100)
    again = Verdicts(found.record)
    assert (again.record, len(again), again.differing) == (found.record, WINDOW, found.differing)
    for each in (found, again):
        each.add(agreed=False)
    assert again.record == found.record
    assert len(Verdicts("x" * 9999)) == WINDOW


def test_without_verdicts_nothing_is_known():
    assert (Verdicts().differing, Verdicts().bounds, wilson(0, 0)) == (0.5, (0.0, 1.0), (0.0, 1.0))


def test_estimate_of_answers_that_are_all_corrected_is_one():
    assert estimate(Verdicts(), Verdicts(), kept=0.0, left=0.0) == Estimate(1.0, 1.0, 1.0)


def test_estimate_weighs_what_was_kept_by_what_audits_and_offloads_show():
    audited, offloaded = verdicts("x" + "." * 9), verdicts("x.")
    found = estimate(audited, offloaded, kept=0.8, left=0.1)
    assert found.value == pytest.approx(1 - 0.8 * 0.1 - 0.1 * 0.5)
    assert found.low == pytest.approx(1 - 0.8 * wilson(1, 10)[1] - 0.1 * wilson(1, 2)[1])
    assert found.high == pytest.approx(1 - 0.8 * wilson(1, 10)[0] - 0.1 * wilson(1, 2)[0])


def test_estimate_stays_between_zero_and_one():
    found = estimate(verdicts("x" * 9), verdicts("x" * 9), kept=0.9, left=0.1 + 1e-12)
    assert (found.value, found.low) == (0.0, 0.0)
