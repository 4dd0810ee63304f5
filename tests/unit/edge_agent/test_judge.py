from random import Random

import numpy as np
import pytest

from edge_agent.deciding.policy import Circumstances
from edge_agent.deciding.settings import BudgetSettings, DuplicateSettings, SteadinessSettings
from edge_agent.judge import Judge
from edge_agent.request import Request
from edge_agent.settings import TaskSettings
from shared.ids import new_id
from shared.manifest import Manifest, TensorSpec
from shared.messages import Action, Reason, SampleHeader
from tests.sim.clock import SimulatedClock

MANIFEST = Manifest(
    task="digits", version="v1", labels=("a", "b", "none"), input=TensorSpec(shape=(4,), dtype="uint8"), threshold=0.5
)
SURE, HARD, NOTHING = ([9.0, 0.0, 0.0], [1.0, 0.9, 0.8], [0.0, 0.0, 9.0])
TENSOR = np.zeros(4, np.uint8)


class Court:
    """A judge on a clock that a test moves."""

    def __init__(self, manifest=MANIFEST, **settings):
        self.clock = SimulatedClock()
        settings.setdefault("audit_fraction", 0.0)
        task = TaskSettings(bundle="b", **settings)
        self.judge = Judge(task, manifest, rng=Random(1), clock=self.clock)

    def __call__(self, logits, *, embedding=None, waited_for=False, sent=True, request=None):
        self.clock.advance(1.0)
        judgement = self.judge.judge(
            request or Request(TENSOR),
            np.array(logits, np.float32),
            None if embedding is None else np.array(embedding, np.float32),
            manifest=MANIFEST,
            waited_for=waited_for,
        )
        if judgement.decision.goes_up:
            self.judge.settle(judgement, sent=sent, size_bytes=TENSOR.nbytes)
        return judgement


def header(reason):
    return SampleHeader(
        sample_id=new_id(), task="digits", seq=1, bundle_version="v1", prediction=0, hardness=0.1, reason=reason
    )


def told(judgement):
    return judgement.decision.action, judgement.decision.reason


def test_judge_keeps_the_sure_and_sends_the_hard():
    court = Court()
    assert told(court(SURE)) == (Action.KEEP, Reason.CONFIDENT)
    assert told(court(HARD)) == (Action.OFFLOAD, Reason.HARD)
    assert told(court([np.nan, 0, 0])) == (Action.OFFLOAD, Reason.INVALID_OUTPUT)


def test_judge_sends_nothing_twice_that_looks_the_same():
    court = Court(duplicates=DuplicateSettings(distance=0.01, for_s=100))
    assert told(court(HARD, embedding=[1, 0])) == (Action.OFFLOAD, Reason.HARD)
    assert told(court(HARD, embedding=[2, 0.01])) == (Action.KEEP, Reason.DUPLICATE)
    assert told(court(HARD, embedding=[0, 1])) == (Action.OFFLOAD, Reason.HARD)
    assert told(court(HARD, embedding=[1, 0], waited_for=True)) == (Action.OFFLOAD, Reason.HARD)
    court.clock.advance(200)
    assert told(court(HARD, embedding=[1, 0])) == (Action.OFFLOAD, Reason.HARD)


def test_judge_knows_how_rare_a_sample_is():
    court = Court()
    first, same_way, opposite = (court(HARD, embedding=each) for each in ([1, 0], [1, 1], [-1, 0]))
    assert first.rarity == 1.0
    assert same_way.rarity == pytest.approx((1 - 2**-0.5) / 2, abs=1e-6)
    assert opposite.rarity > same_way.rarity


def test_judge_remembers_only_what_really_went_up():
    court = Court(duplicates=DuplicateSettings(distance=0.01))
    assert told(court(HARD, embedding=[1, 0], sent=False)) == (Action.OFFLOAD, Reason.HARD)
    assert told(court(HARD, embedding=[1, 0])) == (Action.OFFLOAD, Reason.HARD)
    assert told(court(HARD, embedding=[1, 0])) == (Action.KEEP, Reason.DUPLICATE)


def test_judge_audits_are_drawn_whatever_they_look_like():
    court = Court(audit_fraction=1.0)
    assert told(court(SURE, embedding=[1, 0])) == (Action.OFFLOAD, Reason.AUDIT)
    assert told(court(SURE, embedding=[1, 0])) == (Action.OFFLOAD, Reason.AUDIT)
    assert told(court(SURE, request=Request(TENSOR, audit_fraction=0.0))) == (Action.KEEP, Reason.CONFIDENT)


def test_judge_takes_a_flickering_stream_for_hard():
    court = Court(steadiness=SteadinessSettings(flicker_changes=3, flicker_window=4, empty_label="none"))
    answers = [told(court(each)) for each in (SURE, [0, 9, 0], SURE, [0, 9, 0])]
    assert answers[-1] == (Action.OFFLOAD, Reason.FLICKER)
    assert [action for action, _ in answers[:-1]] == [Action.KEEP] * 3


def test_judge_takes_what_falls_away_for_hard():
    court = Court(steadiness=SteadinessSettings(empty_label="none"))
    answers = [told(court(each)) for each in (NOTHING, SURE, NOTHING, NOTHING)]
    assert [reason for _, reason in answers] == [Reason.CONFIDENT, Reason.CONFIDENT, Reason.EMPTY, Reason.CONFIDENT]


def test_judge_under_pressure_defers_and_drops_what_nobody_waits_for():
    court = Court()
    court.judge.under(Circumstances(defer_training=True))
    assert told(court(HARD)) == (Action.DEFER, Reason.HARD)
    assert told(court(HARD, waited_for=True)) == (Action.OFFLOAD, Reason.HARD)
    court.judge.under(Circumstances(drop=True))
    assert told(court(HARD)) == (Action.DROP, Reason.PRESSURE)


def test_judge_holds_a_budget_and_goes_on_with_it_after_a_restart():
    court = Court(budget=BudgetSettings(offload=0.15))
    rng = np.random.default_rng(1)
    stream = [[float(each), 0.0, 0.0] for each in rng.normal(0.5, 1.0, 3000)]  # nearly all hard by the manifest
    sent = [court(each).decision.goes_up for each in stream]
    assert np.mean(sent[500:]) == pytest.approx(0.15, abs=0.02)
    assert court.judge.budget().offload == pytest.approx(0.15, abs=0.03)
    again = Court(budget=BudgetSettings(offload=0.15))
    again.judge.restore(court.judge.saved())
    assert again.judge.budget().threshold == pytest.approx(court.judge.budget().threshold)
    assert np.mean([again(each).decision.goes_up for each in stream[:400]]) < 0.19


def test_judge_learns_the_agreement_from_audits_alone():
    court = Court(audit_fraction=0.2)
    audits = 0
    for _ in range(1500):
        if court(SURE).decision.reason is Reason.AUDIT:
            audits += 1
            court.judge.judged(header(Reason.AUDIT), agreed=audits % 10 != 0)
            court.judge.judged(header(Reason.HARD), agreed=False)
    state = court.judge.budget()
    assert state.agreement_low < 0.8 * 0.9 + 0.2 < state.agreement_high
    assert state.agreement_low > 0.85


def test_judge_takes_the_next_models_threshold():
    court = Court()
    assert court(HARD).decision.goes_up
    court.judge.met(MANIFEST.model_copy(update={"threshold": 0.99}))
    assert not court(HARD).decision.goes_up
