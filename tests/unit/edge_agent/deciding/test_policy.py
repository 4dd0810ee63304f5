import pytest

from edge_agent.deciding.hardness import Hardness
from edge_agent.deciding.policy import Candidate, Circumstances, Decision, OffloadMode, place, select, under
from edge_agent.deciding.pressure import Measure
from shared.messages import Action, Reason

EASY = Hardness(prediction=1, confidence=0.9, score=0.1, valid=True, hard=False)
HARD = Hardness(prediction=1, confidence=0.2, score=0.8, valid=True, hard=True)
INVALID = Hardness(prediction=0, confidence=0.0, score=1.0, valid=False, hard=True)

NEVER, HARD_ONLY, AUDITED = OffloadMode.NEVER, OffloadMode.HARD, OffloadMode.HARD_AND_AUDIT


@pytest.mark.parametrize(
    ("hardness", "mode", "fraction", "draw", "expected"),
    [
        (EASY, NEVER, 1.0, 0.0, Decision(Action.KEEP, Reason.CONFIDENT)),
        (HARD, NEVER, 1.0, 0.0, Decision(Action.KEEP, Reason.PRIVATE)),
        (INVALID, NEVER, 1.0, 0.0, Decision(Action.KEEP, Reason.PRIVATE)),
        (EASY, HARD_ONLY, 1.0, 0.0, Decision(Action.KEEP, Reason.CONFIDENT)),
        (HARD, HARD_ONLY, 0.0, 0.9, Decision(Action.OFFLOAD, Reason.HARD, 1.0)),
        (INVALID, HARD_ONLY, 0.0, 0.9, Decision(Action.OFFLOAD, Reason.INVALID_OUTPUT, 1.0)),
        (INVALID, AUDITED, 1.0, 0.0, Decision(Action.OFFLOAD, Reason.INVALID_OUTPUT, 1.0)),
        (HARD, AUDITED, 0.5, 0.0, Decision(Action.OFFLOAD, Reason.HARD, 1.0)),
        (EASY, AUDITED, 0.25, 0.2499, Decision(Action.OFFLOAD, Reason.AUDIT, 0.25)),
        (EASY, AUDITED, 0.25, 0.25, Decision(Action.KEEP, Reason.CONFIDENT)),
        (EASY, AUDITED, 0.0, 0.0, Decision(Action.KEEP, Reason.CONFIDENT)),
        (EASY, AUDITED, 1.0, 0.999999, Decision(Action.OFFLOAD, Reason.AUDIT, 1.0)),
    ],
)
def test_select(hardness, mode, fraction, draw, expected):
    assert select(hardness, mode=mode, audit_fraction=fraction, draw=draw) == expected


@pytest.mark.parametrize(
    ("hardness", "mode", "unsteady", "expected"),
    [
        (EASY, HARD_ONLY, Reason.FLICKER, Decision(Action.OFFLOAD, Reason.FLICKER, 1.0)),
        (EASY, AUDITED, Reason.EMPTY, Decision(Action.OFFLOAD, Reason.EMPTY, 1.0)),
        (HARD, HARD_ONLY, Reason.FLICKER, Decision(Action.OFFLOAD, Reason.HARD, 1.0)),
        (INVALID, HARD_ONLY, Reason.EMPTY, Decision(Action.OFFLOAD, Reason.INVALID_OUTPUT, 1.0)),
        (EASY, NEVER, Reason.EMPTY, Decision(Action.KEEP, Reason.PRIVATE)),
    ],
)
def test_select_what_the_stream_makes_hard(hardness, mode, unsteady, expected):
    assert select(hardness, mode=mode, audit_fraction=0.0, draw=0.9, unsteady=unsteady) == expected


def test_select_audits_fewer_under_pressure_and_says_with_what_chance():
    fewer = Circumstances(audits_factor=0.1)
    lucky = select(EASY, mode=AUDITED, audit_fraction=0.5, draw=0.04, circumstances=fewer)
    assert (lucky.reason, lucky.inclusion_probability) == (Reason.AUDIT, pytest.approx(0.05))
    assert select(EASY, mode=AUDITED, audit_fraction=0.5, draw=0.06, circumstances=fewer).action is Action.KEEP
    assert select(HARD, mode=AUDITED, audit_fraction=0.5, draw=0.06, circumstances=fewer).action is Action.OFFLOAD


OFFLOAD = Decision(Action.OFFLOAD, Reason.HARD, 1.0)
AUDIT = Decision(Action.OFFLOAD, Reason.AUDIT, 0.25)
DROPPED = Decision(Action.DROP, Reason.PRESSURE)
DUPLICATE = Decision(Action.KEEP, Reason.DUPLICATE)
SPENT = Decision(Action.KEEP, Reason.BUDGET)
EASY_GOING, DEFER = Circumstances(), Circumstances(defer_training=True)
DROP = Circumstances(0.1, defer_training=True, drop=True)


@pytest.mark.parametrize(
    ("candidate", "circumstances", "expected"),
    [
        (Candidate(OFFLOAD), EASY_GOING, OFFLOAD),
        (Candidate(AUDIT), EASY_GOING, AUDIT),
        (Candidate(OFFLOAD, duplicate=True), EASY_GOING, DUPLICATE),
        (Candidate(AUDIT, duplicate=True), EASY_GOING, AUDIT),
        (Candidate(OFFLOAD, duplicate=True, waited_for=True), EASY_GOING, OFFLOAD),
        (Candidate(OFFLOAD, affordable=False), EASY_GOING, SPENT),
        (Candidate(OFFLOAD, affordable=False, waited_for=True), EASY_GOING, SPENT),
        (Candidate(AUDIT, affordable=False), EASY_GOING, SPENT),
        (Candidate(OFFLOAD), DEFER, Decision(Action.DEFER, Reason.HARD, 1.0)),
        (Candidate(AUDIT), DEFER, Decision(Action.DEFER, Reason.AUDIT, 0.25)),
        (Candidate(OFFLOAD, waited_for=True), DEFER, OFFLOAD),
        (Candidate(OFFLOAD), DROP, DROPPED),
        (Candidate(AUDIT), DROP, DROPPED),
        (Candidate(OFFLOAD, duplicate=True, affordable=False), DROP, DROPPED),
        (Candidate(OFFLOAD, waited_for=True), DROP, OFFLOAD),
    ],
)
def test_place(candidate, circumstances, expected):
    assert place(candidate, circumstances) == expected


def test_only_what_goes_up_goes_up():
    going = [action for action in Action if Decision(action, Reason.HARD).goes_up]
    assert going == [Action.OFFLOAD, Action.DEFER]


@pytest.mark.parametrize(
    ("measures", "expected"),
    [
        (set(), Circumstances(1.0)),
        ({Measure.FEWER_AUDITS}, Circumstances(0.1)),
        ({Measure.FEWER_AUDITS, Measure.DEFER_TRAINING}, Circumstances(0.1, defer_training=True)),
        ({Measure.SMALLER_MODEL, Measure.SLOWER_SAMPLING}, Circumstances(1.0)),
        (set(Measure), Circumstances(0.1, defer_training=True, drop=True)),
    ],
)
def test_measures_become_circumstances(measures, expected):
    assert under(measures, audits_factor=0.1) == expected
