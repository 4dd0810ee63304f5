"""What starts a job and what holds it back, and whole months of a simulated fleet: no storm, no starvation."""

import math
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, time, timedelta

import pytest
from pydantic import ValidationError

from cloud_service.training.triggers import (
    DAY,
    Agreed,
    Drift,
    Seen,
    Spell,
    Standing,
    Trigger,
    TriggerRules,
    decide,
    trained,
)

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DRIFT = Drift(NOON - HOUR, "cam-1 sees something else than before")


def seen(**values):
    return replace(Seen(now=NOON, new_samples=50, ripe_at=NOON - 3 * HOUR), **values)


def after_job(*, ended=NOON - 10 * HOUR, **values):
    return seen(queued_at=ended - HOUR, ended_at=ended, **values)


def agreed(high, *, since=NOON - DAY):
    return Agreed(low=0.5, high=high, audits=200, since=since)


def judged(rules, found):
    decision = decide(rules, found)
    return decision.standing, decision.trigger


def test_task_without_triggers_is_trained_by_hand():
    decision = decide(TriggerRules(), seen(drifts=[DRIFT], agreed=agreed(0.1), new_samples=10**6))
    assert (decision.standing, decision.trigger) == (Standing.IDLE, None)
    assert "by hand" in decision.reason


@pytest.mark.parametrize(("count", "standing"), [(49, Standing.IDLE), (50, Standing.DUE)])
def test_enough_new_samples_start_a_job(count, standing):
    decision = decide(TriggerRules(new_samples=50), seen(new_samples=count))
    assert decision.standing is standing
    assert f"{count}" in decision.reason
    assert "50" in decision.reason


def test_own_number_of_samples_starts_a_job_below_what_the_other_rules_need():
    rules = TriggerRules(new_samples=5, min_new_samples=30, on_drift=True)
    assert judged(rules, seen(new_samples=5, ripe_at=None, drifts=[DRIFT])) == (Standing.DUE, Trigger.SAMPLES)


def test_nothing_is_queued_while_a_job_of_the_task_is_under_way():
    decision = decide(TriggerRules(new_samples=1), seen(waiting="job 7 is running"))
    assert (decision.standing, decision.reason) == (Standing.IDLE, "job 7 is running")


def test_open_incident_starts_a_job_and_is_told():
    decision = decide(TriggerRules(on_drift=True), seen(drifts=[DRIFT, DRIFT]))
    assert (decision.standing, decision.trigger) == (Standing.DUE, Trigger.DRIFT)
    assert decision.reason == "drift: cam-1 sees something else than before (and 1 more)"


def test_incident_that_a_good_job_came_after_starts_none():
    rules = TriggerRules(on_drift=True)
    decision = decide(rules, after_job(drifts=[DRIFT], good_at=NOON - HOUR / 2))
    assert decision.standing is Standing.IDLE
    assert "the last good job came after it" in decision.reason
    assert decide(rules, after_job(drifts=[DRIFT], good_at=NOON - 2 * HOUR)).standing is Standing.DUE


@pytest.mark.parametrize(
    ("found", "standing", "words"),
    [
        (None, Standing.IDLE, "not estimated yet"),
        (Agreed(0.0, 1.0, 0, NOON - DAY), Standing.IDLE, "not under the floor"),
        (Agreed(0.5, 0.96, 20, NOON - DAY), Standing.IDLE, "may be 96.0%"),
        (
            Agreed(0.5, 0.94, 200, NOON - DAY),
            Standing.DUE,
            "at most 94.0% of the answers are the teacher's by 200 audits",
        ),
    ],
)
def test_floor_is_undercut_only_when_the_whole_interval_is(found, standing, words):
    decision = decide(TriggerRules(agreement_floor=0.95), seen(agreed=found))
    assert decision.standing is standing
    assert words in decision.reason


def test_estimate_that_looks_back_before_the_last_good_job_starts_none():
    rules, job = TriggerRules(agreement_floor=0.95), after_job(good_at=NOON - 10 * HOUR, agreed=agreed(0.9))
    decision = decide(rules, job)
    assert decision.standing is Standing.IDLE
    assert "looks back" in decision.reason
    assert judged(rules, replace(job, agreed=agreed(0.9, since=NOON - 9 * HOUR))) == (Standing.DUE, Trigger.AGREEMENT)


@pytest.mark.parametrize(
    ("at", "found", "standing"),
    [
        ("11:00", seen(), Standing.DUE),
        ("12:00", seen(), Standing.DUE),
        ("12:01", seen(ripe_at=NOON - 2 * DAY), Standing.DUE),  # yesterday's was missed and is made up for
        ("12:01", seen(), Standing.IDLE),
        ("11:00", after_job(ended=NOON - HOUR / 2), Standing.DUE),  # queued before it
        ("09:30", after_job(ended=NOON - HOUR), Standing.IDLE),
        ("11:00", seen(ripe_at=NOON - HOUR / 2), Standing.IDLE),  # there was too little by then
        ("11:00", seen(ripe_at=None), Standing.IDLE),
    ],
)
def test_daily_job_comes_once_after_its_time(at, found, standing):
    decision = decide(TriggerRules(daily_at=at, cooldown_s=0), found)
    assert decision.standing is standing
    if standing is Standing.IDLE:
        assert "the next daily job is at 2026-03-0" in decision.reason


def test_interval_counts_from_the_last_job_and_before_it_from_enough_samples():
    rules = TriggerRules(every_s=7_200, cooldown_s=0)
    assert judged(rules, seen(ripe_at=NOON - 2 * HOUR)) == (Standing.DUE, Trigger.SCHEDULE)
    assert decide(rules, seen(ripe_at=NOON - HOUR)).reason == "the next interval ends at 2026-03-02 13:00:00 UTC"
    assert "once there are 30" in decide(rules, seen(ripe_at=None)).reason
    assert decide(rules, after_job()).reason == "a job every 2:00:00"
    assert decide(rules, after_job(ended=NOON - HOUR / 2)).standing is Standing.IDLE


def test_too_few_new_samples_hold_back_what_would_learn_nothing():
    found = after_job(new_samples=3, ripe_at=None, drifts=[DRIFT])
    decision = decide(TriggerRules(on_drift=True), found)
    assert (decision.standing, decision.trigger) == (Standing.HELD, Trigger.DRIFT)
    assert "3 of 30 new samples" in decision.reason


@pytest.mark.parametrize(
    ("setbacks", "failed", "cooldown_s", "minutes"),
    [(0, False, 3600, 60), (1, False, 3600, 120), (4, True, 3600, 960), (9, True, 3600, 960), (1, True, 0, 2)],
)
def test_cool_down_doubles_with_each_setback_up_to_sixteenfold(setbacks, failed, cooldown_s, minutes):
    rules = TriggerRules(new_samples=1, cooldown_s=cooldown_s)
    ended = NOON - timedelta(minutes=minutes)
    early = after_job(ended=ended + timedelta(seconds=1), setbacks=setbacks, failed=failed)
    decision = decide(rules, early)
    assert (decision.standing, decision.until) == (Standing.HELD, NOON + timedelta(seconds=1))
    assert "the cool-down lasts until 2026-03-02 12:00:01 UTC" in decision.reason
    assert (f"{setbacks} in a row" in decision.reason) == (setbacks > 0)
    assert decide(rules, replace(early, ended_at=ended)).standing is Standing.DUE


def test_spent_budget_holds_a_job_back_until_a_day_has_passed():
    rules = TriggerRules(new_samples=1, budget_s=600)
    decision = decide(rules, after_job(trained_s=600))
    assert (decision.standing, decision.trigger) == (Standing.HELD, Trigger.SAMPLES)
    assert "600 s in 24 hours" in decision.reason
    assert decide(rules, after_job(trained_s=599)).standing is Standing.DUE


def test_only_what_lies_within_the_last_day_is_spent():
    spells = [Spell(100, NOON), Spell(100, NOON - DAY), Spell(100, NOON - DAY + timedelta(seconds=40))]
    assert trained(spells, NOON) == 140


@pytest.mark.parametrize(
    "wrong",
    [
        {"daily_at": "25:00"},
        {"daily_at": "03:00+01:00"},
        {"every_s": 0},
        {"agreement_floor": 1.0},
        {"cooldown": 1},
        {"cooldown_s": math.inf},
        {"every_s": 1e12},
        {"budget_s": math.inf},
    ],
)
def test_impossible_rules_are_refused(wrong):
    with pytest.raises(ValidationError):
        TriggerRules(**wrong)


def test_time_of_day_is_taken_as_text_and_as_toml_has_it():
    assert TriggerRules(daily_at="03:00").daily_at == TriggerRules(daily_at=time(3)).daily_at == time(3)


@dataclass
class Fleet:
    """A task's life in steps of ten minutes: samples come, jobs take an hour, incidents stay until a good one."""

    rules: TriggerRules
    samples_an_hour: float
    outcome: str = "good"
    job_s: float = 3_600.0
    drift_at: datetime | None = None
    high: float = 1.0
    now: datetime = NOON
    jobs: list[tuple[datetime, datetime, Trigger]] = field(default_factory=list)
    setbacks: int = 0
    good_at: datetime | None = None
    learnt_at: datetime = NOON

    def live(self, days):
        step = timedelta(minutes=10)
        for _ in range(int(timedelta(days=days) / step)):
            self.now += step
            if self.jobs and self.now < self.jobs[-1][1]:
                continue
            decision = decide(self.rules, self._seen())
            assert decision.reason
            if decision.standing is Standing.DUE:
                self._train(decision.trigger)
        return self

    def _train(self, trigger):
        end = self.now + timedelta(seconds=self.job_s)
        self.jobs.append((self.now, end, trigger))
        if self.outcome != "failed":
            self.learnt_at = self.now
        if self.outcome == "good":
            self.good_at, self.setbacks = end, 0
        else:
            self.setbacks += 1

    def _seen(self):
        count = int((self.now - self.learnt_at) / HOUR * self.samples_an_hour)
        to_ripe = timedelta(hours=self.rules.min_new_samples / self.samples_an_hour)
        last = self.jobs[-1] if self.jobs else None
        return Seen(
            now=self.now,
            new_samples=count,
            ripe_at=self.learnt_at + to_ripe if count >= self.rules.min_new_samples else None,
            queued_at=last[0] if last else None,
            ended_at=last[1] if last else None,
            good_at=self.good_at,
            setbacks=self.setbacks,
            failed=self.outcome == "failed" and last is not None,
            trained_s=trained([Spell(self.job_s, end) for _, end, _ in self.jobs], self.now),
            drifts=[Drift(self.drift_at, "it drifts")] if self.drift_at and self.drift_at <= self.now else [],
            agreed=Agreed(0.0, self.high, 500, self.now - DAY),
        )

    def pauses(self):
        return [later[0] - earlier[1] for earlier, later in zip(self.jobs, self.jobs[1:], strict=False)]


EVERYTHING = {
    "new_samples": 100,
    "daily_at": "03:00",
    "every_s": 3_600,
    "on_drift": True,
    "agreement_floor": 0.95,
    "min_new_samples": 1,
}


@pytest.mark.parametrize("outcome", ["good", "rejected", "failed"])
def test_everything_at_once_for_a_month_is_no_storm_and_nothing_starves(outcome):
    rules = TriggerRules(**EVERYTHING, cooldown_s=7_200, budget_s=4 * 3_600)
    fleet = Fleet(rules, samples_an_hour=1_000, outcome=outcome, drift_at=NOON, high=0.8).live(30)
    least = 7_200 if outcome == "good" else 14_400
    assert min(fleet.pauses()) >= timedelta(seconds=least)
    for _, end, _ in fleet.jobs:
        within = [Spell(3_600, e) for _, e, _ in fleet.jobs if e <= end]
        assert trained(within, end) <= rules.budget_s + 3_600
    # Whatever comes, the next job is not further away than the longest cool-down and a day of the budget.
    assert max(fleet.pauses()) <= timedelta(seconds=16 * 7_200) + DAY
    assert len(fleet.jobs) >= 15


def test_one_incident_of_a_month_starts_one_good_job():
    fleet = Fleet(TriggerRules(on_drift=True), samples_an_hour=100, drift_at=NOON + DAY).live(30)
    [(start, _, trigger)] = fleet.jobs
    assert trigger is Trigger.DRIFT
    assert start == NOON + DAY


def test_incident_whose_jobs_do_not_pass_is_tried_again_ever_more_slowly():
    fleet = Fleet(TriggerRules(on_drift=True), samples_an_hour=100, drift_at=NOON, outcome="rejected").live(10)
    hours = [round(pause / HOUR) for pause in fleet.pauses()]
    assert hours[:6] == [2, 4, 8, 16, 16, 16]


def test_low_agreement_is_given_a_day_to_show_whether_the_new_student_is_better():
    fleet = Fleet(TriggerRules(agreement_floor=0.95), samples_an_hour=100, high=0.9).live(10)
    assert 8 <= len(fleet.jobs) <= 10
    assert min(fleet.pauses()) >= DAY


def test_daily_job_comes_every_day_for_a_month_and_at_its_time():
    fleet = Fleet(TriggerRules(daily_at="03:00"), samples_an_hour=10).live(30)
    assert len(fleet.jobs) == 30
    assert {start.time() for start, _, _ in fleet.jobs} == {time(3)}


def test_quiet_fleet_trains_only_as_often_as_there_is_something_to_learn():
    fleet = Fleet(TriggerRules(daily_at="03:00", every_s=600), samples_an_hour=0.25).live(30)
    assert min(later[0] - earlier[0] for earlier, later in zip(fleet.jobs, fleet.jobs[1:], strict=False)) >= 5 * DAY
    assert len(fleet.jobs) >= 4
