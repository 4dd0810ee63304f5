import pytest

from edge_agent.deciding.hardness import Hardness
from edge_agent.deciding.policy import Decision, OffloadMode, decide
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
def test_decide(hardness, mode, fraction, draw, expected):
    assert decide(hardness, mode=mode, audit_fraction=fraction, draw=draw) == expected
