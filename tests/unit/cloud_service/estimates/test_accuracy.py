import numpy as np
import pytest

from cloud_service.estimates.accuracy import Labelled, accuracy
from cloud_service.estimates.agreement import UNKNOWN
from shared.intervals import wilson
from tests.sim.field import tally


def labelled(edge, teacher, count, *, audit=True, weight=20.0):
    return tally(count, audit=audit, weight=weight, agreed=edge == teacher, edge_right=edge, teacher_right=teacher)


def test_accuracy_is_the_share_of_right_answers_of_each():
    found = accuracy(
        [labelled(True, True, 70), labelled(True, False, 6), labelled(False, True, 20), labelled(False, False, 4)],
        Labelled.AUDITS,
    )
    assert found.count == 100
    assert found.edge.value == pytest.approx(0.76)
    assert found.teacher.value == pytest.approx(0.90)
    assert (found.teacher.low, found.teacher.high) == pytest.approx(wilson(90, 100))
    assert found.teacher_better.value == pytest.approx(20 / 26)
    assert (found.teacher_better.low, found.teacher_better.high) == pytest.approx(wilson(20, 26))


def test_labels_of_audits_and_of_what_people_chose_are_kept_apart():
    tallies = [labelled(True, True, 10), labelled(False, True, 90, audit=False, weight=1.0)]
    assert accuracy(tallies, Labelled.AUDITS).edge.value == 1.0
    everything = accuracy(tallies, Labelled.ALL)
    assert everything.count == 100
    assert everything.edge.value == pytest.approx(200 / 290)
    effective = 290**2 / (10 * 400 + 90)
    assert everything.edge.low == pytest.approx(wilson(200 / 290 * effective, effective)[0])


def test_samples_without_a_label_or_an_answer_tell_nothing():
    unlabelled = tally(10, audit=True)
    unanswered = tally(10, audit=True, agreed=None, edge_right=True)
    assert accuracy([unlabelled, unanswered], Labelled.ALL) is None
    assert accuracy([labelled(True, True, 3, audit=False)], Labelled.AUDITS) is None
    assert accuracy([labelled(True, True, 3)], Labelled.AUDITS).teacher_better == UNKNOWN


def test_accuracy_of_labelled_audits_covers_as_often_as_it_says():
    rng, held = np.random.default_rng(4), 0
    for _ in range(1_000):
        right = int(rng.binomial(150, 0.93))
        found = accuracy([labelled(True, True, right), labelled(False, True, 150 - right)], Labelled.AUDITS)
        held += found.edge.low <= 0.93 <= found.edge.high
    assert 0.93 <= held / 1_000 <= 0.97
