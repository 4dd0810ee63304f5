import pytest

from edge_agent.spool.value import worth
from shared.ids import new_id
from shared.messages import Reason, SampleHeader


def header(hardness, reason=Reason.HARD):
    return SampleHeader(
        sample_id=new_id(), task="t", seq=1, bundle_version="v1", prediction=3, hardness=hardness, reason=reason
    )


def test_worth_adds_rarity_to_hardness():
    assert worth(header(0.4), 0.3) - worth(header(0.4), 0.0) == pytest.approx(0.3)
    assert worth(header(0.9), 0.0) > worth(header(0.4), 0.3)
    assert worth(header(0.5), 0.5) > worth(header(0.9), 0.0)


@pytest.mark.parametrize("reason", [Reason.HARD, Reason.INVALID_OUTPUT, Reason.FLICKER, Reason.EMPTY])
def test_every_other_reason_is_worth_more_than_any_audit(reason):
    assert worth(header(-8.0, reason), 0.0) > worth(header(1e30, Reason.AUDIT), 1.0) + 1.0
    assert worth(header(-1e30, reason), 0.0) > worth(header(1.0, Reason.AUDIT), 1.0) + 1.0


def test_scores_outside_0_and_1_keep_their_order():
    scores = [-12.0, -3.5, 0.0, 1.0, 7.0]
    values = [worth(header(score), 0.0) for score in scores]
    assert values == sorted(values)
    assert len(set(values)) == len(values)
