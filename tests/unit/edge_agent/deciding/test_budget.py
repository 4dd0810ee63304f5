"""A budget over streams of scores that drift: what goes up, what is refused, and what is said of it."""

import json
import math
from dataclasses import dataclass, field
from random import Random

import pytest

from edge_agent.deciding.budget import Budget
from edge_agent.deciding.learnt import MAX_MODELS
from edge_agent.deciding.settings import BudgetSettings
from shared.manifest import ScoreSpread
from shared.uncertainty import Score

# Log-odds of a device's scores in domain: three of four samples are easy, and its teacher differs as often as they say.
SPREAD = ScoreSpread(mean=-5.25, deviation=2.9, low=-14.0, high=2.1)
HIGHEST = math.log(9.0)  # of ten classes
AUDITS = 0.05


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


# Sends 10.5 % in domain: with the audits 15 %; and, without audits, an agreement of 0.97.
THRESHOLD = sigmoid(-1.2)


def steady(_part):
    return 0.0


def shift(part):
    return 1.5 * SPREAD.deviation if part >= 0.5 else 0.0


def ramp(part):
    return 1.5 * SPREAD.deviation * min(max(part - 0.25, 0.0) * 2, 1.0)


def bursts(part):
    return 2.5 * SPREAD.deviation if part * 6 % 1 < 0.1 else 0.0


def stream(drift, *, seed, count=12_000, overconfident=1.0):
    """[(score, whether the teacher differs)]; where the scores drift the model is surer than it should be."""
    rng = Random(seed)
    for index in range(count):
        moved = drift(index / count)
        odds = rng.gauss(-6.5, 2.2) if rng.random() < 0.75 else rng.gauss(-1.5, 1.3)
        odds = min(max(odds + moved, -16.0), HIGHEST)
        yield sigmoid(odds), rng.random() < sigmoid(odds + overconfident * (moved > 0))


@dataclass
class Device:
    """Sends what its budget says and hears what the teacher says five samples later."""

    budget: Budget
    seed: int = 1
    sent: list[bool] = field(default_factory=list)
    wrong: list[bool] = field(default_factory=list)
    refused: int = 0
    now_s: float = 0.0

    def __post_init__(self):
        self.rng, self.verdicts = Random(1000 + self.seed), []

    def play(self, samples, *, size_bytes=1000, step_s=1.0):
        budget = self.budget
        for score, differs in samples:
            hard = budget.threshold is not None and score >= budget.threshold
            audit = not hard and self.rng.random() < budget.audit_fraction
            sent = (hard or audit) and budget.admits(self.now_s, size_bytes)
            self.refused += (hard or audit) and not sent
            budget.observed(
                score,
                hard=hard,
                sent=sent,
                audited=audit and sent,
                size_bytes=size_bytes if sent else 0,
                now_s=self.now_s,
            )
            self.sent.append(sent)
            self.wrong.append(differs and not sent)
            if sent:
                self.verdicts.append((score, audit, differs))
            if len(self.verdicts) > 5:
                judged, was_audit, differed = self.verdicts.pop(0)
                budget.judged(judged, agreed=not differed, audited=was_audit)
            self.now_s += step_s
        return self

    def share(self, start=0, end=None):
        return sum(self.sent[start:end]) / len(self.sent[start:end])

    def agreement(self, start=0, end=None):
        return 1 - sum(self.wrong[start:end]) / len(self.wrong[start:end])

    @property
    def worst(self):
        return max(sum(self.sent[start : start + 500]) for start in range(len(self.sent) - 499)) / 500


def device(*, audits=AUDITS, threshold=THRESHOLD, spread=SPREAD, score=Score.MAX_PROBABILITY, seed=1, **goals):
    budget = Budget(BudgetSettings(**goals), audit_fraction=audits, threshold=threshold, score=score, spread=spread)
    return Device(budget, seed)


def test_nothing_to_hold_the_manifests_threshold_stays():
    played = device().play(stream(shift, seed=1))
    assert played.budget.threshold == THRESHOLD
    assert played.budget.audit_fraction == AUDITS
    assert played.refused == 0
    state = played.budget.state()
    assert (state.goal_met, state.would_need) == (None, None)
    assert state.offload == pytest.approx(played.share(-500), abs=0.05)


def test_nothing_to_hold_and_no_threshold_nothing_is_hard():
    played = device(threshold=None, spread=None, audits=0.0).play(stream(steady, seed=1, count=1000))
    assert (played.budget.threshold, played.share()) == (None, 0.0)


@pytest.mark.parametrize("drift", [steady, shift, ramp, bursts])
def test_offload_goal_is_held_through_any_drift(drift):
    played = device(offload=0.15).play(stream(drift, seed=2))
    assert played.share() == pytest.approx(0.15, abs=0.005)
    assert played.worst <= 1.25 * 0.15
    assert played.refused / len(played.sent) < 0.01
    state = played.budget.state()
    assert (state.goal_met, state.would_need) == (True, None)
    assert state.threshold == played.budget.threshold


@pytest.mark.parametrize("drift", [shift, ramp, bursts])
def test_threshold_that_is_not_steered_overshoots_through_the_same_drift(drift):
    played = device().play(stream(drift, seed=2))
    assert played.share() > 0.2
    assert played.worst > 0.4


@pytest.mark.parametrize(("threshold", "spread"), [(None, SPREAD), (THRESHOLD, None), (None, None), (0.9999, None)])
def test_offload_goal_is_held_from_any_start(threshold, spread):
    played = device(offload=0.15, threshold=threshold, spread=spread).play(stream(shift, seed=3))
    assert played.share() == pytest.approx(0.15, abs=0.005)
    assert played.worst <= 1.25 * 0.15


def test_until_the_spread_is_known_the_threshold_stays():
    played = device(offload=0.15, threshold=0.3, spread=None).play(stream(steady, seed=3, count=29))
    assert played.budget.threshold == 0.3
    played.play(stream(steady, seed=4, count=1))
    assert played.budget.threshold != 0.3


def test_offload_goal_is_held_for_energy_too():
    samples = [(math.log(score / (1 - score)) - 3.0, differs) for score, differs in stream(shift, seed=4)]
    played = device(offload=0.15, threshold=None, spread=None, score=Score.ENERGY).play(samples)
    assert played.share() == pytest.approx(0.15, abs=0.005)


def test_saturated_scores_cannot_be_told_apart_and_stay_at_home():
    rng = Random(5)
    samples = [(0.0 if rng.random() < 0.95 else rng.random(), False) for _ in range(5000)]
    played = device(offload=0.15, audits=0.0).play(samples)
    assert played.share(-2000) == pytest.approx(0.05, abs=0.02)


def test_outputs_that_are_not_valid_go_up_within_the_limit_and_teach_nothing():
    samples = [(1.0 if index % 2 else score, False) for index, (score, _) in enumerate(stream(steady, seed=6))]
    played = device(offload=0.15, audits=0.0, spread=None).play(samples)
    assert played.share() == pytest.approx(0.15, abs=0.01)
    assert played.budget.saved()["spread"][4] < 5.0


@pytest.mark.parametrize("said", [True, False], ids=["called hard", "only sent"])
def test_samples_that_go_up_for_another_reason_than_their_score_count(said):
    budget, sent, refused = device(offload=0.15, audits=0.0).budget, 0, 0
    for index, (score, _) in enumerate(stream(steady, seed=6)):
        flickers = index % 10 == 0
        hard = score >= budget.threshold
        goes = (hard or flickers) and budget.admits(0.0, 1)
        sent += goes
        refused += (hard or flickers) and not goes
        budget.observed(score, hard=hard or (flickers and said), sent=goes, audited=False, size_bytes=1, now_s=0.0)
    assert sent / 12_000 == pytest.approx(0.15, abs=0.005)
    assert refused / 12_000 < 0.005


def test_audits_that_would_eat_up_the_limit_are_fewer():
    played = device(offload=0.03, audits=0.1)
    assert played.budget.audit_fraction == pytest.approx(0.01)
    played.play(stream(steady, seed=7))
    assert played.share() == pytest.approx(0.03, abs=0.005)
    hardest = sorted((score for score, _ in stream(steady, seed=7)), reverse=True)[:120]
    kept_hard = [score for (score, _), sent in zip(stream(steady, seed=7), played.sent, strict=True) if sent]
    assert len(set(hardest) & set(kept_hard)) > 30


def test_audits_do_not_come_on_top():
    with_audits = device(offload=0.15).play(stream(steady, seed=8))
    without = device(offload=0.15, audits=0.0).play(stream(steady, seed=8))
    assert with_audits.share() == pytest.approx(without.share(), abs=0.005)
    assert with_audits.budget.threshold > without.budget.threshold


def test_bytes_a_day_are_held_through_a_shift_and_used():
    # A sample of 20 kB every 10 s; 20 MB a day are 11.6 % of them.
    day = 8640
    played = device(bytes_per_day=20_000_000).play(stream(shift, seed=9, count=4 * day), size_bytes=20_000, step_s=10.0)
    days = [sum(played.sent[start : start + day]) * 20_000 for start in range(0, 3 * day, day // 8)]
    assert max(days) <= 20_000_000
    assert min(days[8:]) >= 0.85 * 20_000_000
    assert played.refused / len(played.sent) < 0.01
    assert played.budget.state().goal_met


def test_smaller_of_both_limits_is_held():
    played = device(bytes_per_day=20_000_000, offload=0.05, audits=0.01).play(
        stream(shift, seed=10), size_bytes=20_000, step_s=10.0
    )
    assert played.share() == pytest.approx(0.05, abs=0.005)
    tight = device(bytes_per_day=4_000_000, offload=0.5, audits=0.0).play(
        stream(shift, seed=10), size_bytes=20_000, step_s=10.0
    )
    assert sum(tight.sent[-8640:]) * 20_000 <= 4_000_000


@pytest.mark.parametrize("seed", [11, 12])
def test_agreement_goal_is_met_again_after_a_shift(seed):
    played = device(agreement=0.97).play(stream(shift, seed=seed))
    fixed = device().play(stream(shift, seed=seed))
    assert fixed.agreement(6000) < 0.95
    assert played.agreement(7000) == pytest.approx(0.97, abs=0.015)
    assert played.agreement(7000) > fixed.agreement(7000) + 0.02
    assert played.share(7000) > fixed.share(7000)
    state = played.budget.state()
    assert state.agreement_low < state.agreement < state.agreement_high
    assert state.agreement == pytest.approx(0.97, abs=0.02)
    assert state.goal_met


def test_agreement_goal_that_is_easily_met_sends_little():
    played = device(agreement=0.9).play(stream(steady, seed=13))
    assert played.agreement(4000) >= 0.89
    assert played.share(4000) < 0.08
    assert played.budget.threshold > THRESHOLD


@pytest.mark.parametrize("seed", [14, 15])
def test_agreement_goal_out_of_reach_is_said_to_be_and_nothing_is_overspent(seed):
    played = device(agreement=0.97, offload=0.15).play(stream(shift, seed=seed))
    assert played.share() <= 0.15 + 0.005
    assert played.share(6000) == pytest.approx(0.15, abs=0.005)
    assert played.worst <= 1.25 * 0.15
    assert played.refused / len(played.sent) < 0.01
    state = played.budget.state()
    assert state.goal_met is False
    assert state.agreement < 0.8
    # What it really needs: the hardest first until three of a hundred are left wrong.
    late = sorted(list(stream(shift, seed=seed))[6000:], reverse=True)
    left = sum(differs for _, differs in late)
    needed = 0
    while left > 0.03 * len(late):
        left -= late[needed][1]
        needed += 1
    assert state.would_need == pytest.approx(needed / len(late), abs=0.2)
    assert state.would_need > 0.4


def test_agreement_goal_within_reach_of_the_limit_is_met():
    played = device(agreement=0.95, offload=0.3).play(stream(steady, seed=16))
    assert played.agreement(2000) >= 0.935
    assert played.budget.state().goal_met


def test_limit_is_there_at_once_when_a_goal_that_needed_little_needs_more():
    # In domain the goal sends less than the limit for long; then everything is harder.
    played = device(agreement=0.9, offload=0.15).play(stream(steady, seed=27))
    assert played.share(4000) < 0.12
    before = played.refused
    played.play(stream(lambda _: 1.5 * SPREAD.deviation, seed=28, count=500))
    assert played.refused - before < 25


def test_agreement_goal_raises_the_threshold_to_the_highest_score_of_calibration_and_no_farther():
    budget = device(agreement=0.9).budget
    for _ in range(500):
        budget.judged(1e-6, agreed=True, audited=True)
    assert budget.threshold == pytest.approx(sigmoid(SPREAD.high))


@pytest.mark.parametrize(
    ("differ_of_100", "above", "goals", "met"),
    [
        (4, 0.3, {"offload": 0.05}, False),  # a little below the goal, and far more is needed than may go up
        (4, 0.3, {"offload": 0.5}, True),  # it may go up: the threshold is on its way
        (4, 0.05, {"offload": 0.05}, True),  # hardly more is needed than may go up
        (1, 0.3, {"offload": 0.05}, True),  # it is met, whatever the threshold would like
        (12, 0.0, {}, False),  # audits leave no doubt
    ],
)
def test_goal_is_unmet_when_audits_or_the_limits_say_so(differ_of_100, above, goals, met):
    budget = device(agreement=0.97, audits=0.0, **goals).budget
    for index in range(100):
        budget.judged(1e-6, agreed=index >= differ_of_100, audited=True)
    for index in range(2000):
        score = 0.99 if index % 100 < 100 * above else 1e-6
        budget.observed(score, hard=False, sent=False, audited=False, size_bytes=0, now_s=0.0)
    assert budget.state().goal_met is met


def test_nothing_is_said_of_a_goal_before_there_are_enough_audits():
    played = device(agreement=0.97)
    assert played.budget.state().model_dump(exclude={"schema_version", "threshold"}) == dict.fromkeys(
        ("offload", "agreement", "agreement_low", "agreement_high", "goal_met", "would_need")
    )
    played.play(stream(steady, seed=17, count=100))
    assert played.budget.state().agreement_low < 0.95
    assert played.budget.state().goal_met is None


def test_verdict_on_what_would_go_up_by_now_moves_nothing():
    budget = device(agreement=0.97).budget
    before = budget.threshold
    budget.judged(before, agreed=False, audited=True)
    budget.judged(before / 2, agreed=False, audited=False)
    assert budget.threshold == before
    budget.judged(before / 2, agreed=False, audited=True)
    assert budget.threshold < before


def test_agreement_is_estimated_without_any_goal():
    played = device().play(stream(steady, seed=18))
    state = played.budget.state()
    assert state.agreement_low <= played.agreement(-5000) <= state.agreement_high
    assert state.agreement_high - state.agreement_low < 0.06


def test_hard_samples_that_stayed_count_as_often_wrong_as_those_that_went_up():
    budget = device(audits=0.5).budget
    for _ in range(1000):
        budget.judged(1e-6, agreed=True, audited=True)
        budget.judged(0.9, agreed=False, audited=False)
        budget.observed(1e-6, hard=False, sent=False, audited=False, size_bytes=1, now_s=0.0)
        budget.observed(0.9, hard=True, sent=False, audited=False, size_bytes=1, now_s=0.0)
    assert budget.state().agreement == pytest.approx(0.5, abs=0.01)


def test_new_model_starts_at_its_own_threshold_and_what_was_spent_stays_spent():
    played = device(offload=0.15, agreement=0.97).play(stream(shift, seed=19))
    for _ in range(100):  # spend all there is
        played.budget.observed(0.9, hard=True, sent=True, audited=False, size_bytes=1, now_s=played.now_s)
    played.budget.retargeted(0.25, SPREAD)
    assert played.budget.threshold == pytest.approx(0.25)
    assert played.budget.state().agreement is None
    assert not played.budget.admits(played.now_s, 1)
    played.budget.retargeted(-7.0, ScoreSpread(mean=-9.0, deviation=2.0, low=-12.0, high=-3.0), score=Score.ENERGY)
    assert played.budget.threshold == -7.0


SMALLER = {"spread": ScoreSpread(mean=-3.0, deviation=2.0, low=-9.0, high=2.2), "version": "small"}


def test_model_that_comes_back_goes_on_where_it_was():
    played = device(offload=0.15, agreement=0.97).play(stream(shift, seed=19))
    steered, state = played.budget.threshold, played.budget.state()
    assert steered != pytest.approx(THRESHOLD, abs=0.01)
    played.budget.retargeted(0.25, SMALLER["spread"], version="small")
    assert played.budget.threshold == pytest.approx(0.25)
    played.play(stream(steady, seed=20, count=500))
    small = played.budget.threshold
    played.budget.retargeted(THRESHOLD, SPREAD)
    assert played.budget.threshold == steered
    after = played.budget.state()
    assert after.agreement_low == pytest.approx(state.agreement_low, abs=0.03)
    assert after.would_need == pytest.approx(state.would_need, abs=0.03)
    played.budget.retargeted(0.25, SMALLER["spread"], version="small")
    assert played.budget.threshold == small


def test_model_of_the_same_version_with_another_threshold_is_another():
    played = device(offload=0.15).play(stream(shift, seed=19))
    played.budget.retargeted(0.25, SPREAD)
    assert played.budget.threshold == pytest.approx(0.25)


def test_only_the_last_few_models_are_remembered():
    played = device(offload=0.15).play(stream(shift, seed=19))
    for number in range(MAX_MODELS):
        played.budget.retargeted(0.25, SPREAD, version=f"v{number}")
    played.budget.retargeted(THRESHOLD, SPREAD)
    assert played.budget.threshold == pytest.approx(THRESHOLD)


def test_verdict_counts_for_the_model_that_had_answered():
    budget = device(agreement=0.97).budget
    budget.observed(1e-6, hard=False, sent=False, audited=False, size_bytes=1, now_s=0.0)
    budget.retargeted(0.25, SMALLER["spread"], version="small")
    before = budget.threshold
    budget.judged(1e-6, agreed=False, audited=True, version="")
    budget.judged(1e-6, agreed=False, audited=True, version="of last year")
    assert (budget.threshold, budget.state().agreement) == (before, None)
    budget.retargeted(THRESHOLD, SPREAD)
    assert budget.state().agreement is not None
    assert budget.threshold < THRESHOLD


def restarted(played, **options):
    again = device(seed=99, **options)
    taken = again.budget.restore(json.loads(json.dumps(played.budget.saved())))
    again.now_s = 5.0  # its clock begins anew
    return again, taken


@pytest.mark.parametrize("spread", [SPREAD, None])
def test_restart_goes_on_where_it_was(spread):
    goals = {"offload": 0.3, "agreement": 0.95, "bytes_per_day": 20_000_000, "spread": spread}
    played = device(**goals).play(stream(shift, seed=20))
    again, taken = restarted(played, **goals)
    assert taken
    assert again.budget.state() == played.budget.state()
    assert again.budget.saved() == played.budget.saved()
    assert again.budget.audit_fraction == played.budget.audit_fraction
    more = list(stream(steady, seed=21, count=300))
    played.rng, again.rng = Random(1), Random(1)
    played.verdicts.clear()
    assert again.play(more).sent == played.play(more).sent[12_000:]


def test_restart_before_anything_is_known_goes_on_as_well():
    played = device(offload=0.15, threshold=None, spread=None).play(stream(steady, seed=22, count=10))
    again, taken = restarted(played, offload=0.15, threshold=None, spread=None)
    assert taken
    assert again.budget.threshold is None
    again.play(stream(steady, seed=23, count=20))
    assert again.budget.threshold is not None


def test_restart_with_another_model_keeps_only_what_is_not_its_own():
    played = device(offload=0.15).play(stream(shift, seed=24))
    again, taken = restarted(played, offload=0.15, threshold=0.4)
    assert taken
    assert again.budget.threshold == pytest.approx(0.4)
    old, new = played.budget.saved(), again.budget.saved()
    assert new["rate_fullness"] == old["rate_fullness"] != 0.5
    assert new["sent"] == old["sent"]
    assert (new["audited"], new["limit"]) != (old["audited"], old["limit"])


def test_restart_with_other_goals_takes_what_fits():
    played = device(offload=0.15).play(stream(steady, seed=25, count=1000))
    again, taken = restarted(played, bytes_per_day=10**6)
    assert taken
    assert again.budget.admits(0.0, 10**4)


@pytest.mark.parametrize(
    "change",
    [
        {"sent": [2.0, 5]},
        {"limit": "high"},
        {"rate_fullness": 7.0},
        {"audited": "abc"},
        {"score": "guess"},
        {"more": 1},
        {"spread": [1, 2.0]},
        {"interval_s": [-1.0, 3]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_restart_from_something_impossible_starts_anew(change):
    played = device(offload=0.15).play(stream(shift, seed=26, count=3000))
    budget = device(offload=0.15).budget
    before = budget.saved()
    assert not budget.restore({**played.budget.saved(), **change})
    assert not budget.restore({})
    assert budget.saved() == before


def test_restored_threshold_is_held_within_the_calibrations_range():
    played = device(offload=0.15)
    again = device(offload=0.15).budget
    assert again.restore({**played.budget.saved(), "limit": 1e9})
    assert again.threshold == pytest.approx(sigmoid(SPREAD.high + 4 * SPREAD.deviation))
