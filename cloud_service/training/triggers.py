"""When a training job starts by itself, and why it does or does not, in words. Pure.

Four rules say that a job is due: drift, agreement below a floor, enough new samples, the schedule, in this order. Three
hold it back: too few new samples, the cool-down, the budget. What is held back stays due: nothing is lost, only late.

A floor is undercut when the *upper* end of the agreement's 95 % interval (Wilson 1927) is below it. The lower end is
below any floor while few audits came, so that a quiet night would start a job; the upper end is there only if the
audits say so, and a share that is really too low gets there as they gather.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from enum import StrEnum
from typing import Annotated

from pydantic import Field, field_validator

from shared.settings import Section

DAY = timedelta(days=1)
# After a job that failed, whatever the cool-down says: what failed at once would fail again and again.
AFTER_FAILURE = timedelta(seconds=60)
# The cool-down doubles with each setback, up to so many times.
MAX_DOUBLINGS = 4
# No longer: dates end, and who means never leaves the rule out.
_YEAR_S = 366 * 86_400.0


class TriggerRules(Section):
    """When a training job of a task starts by itself; without any of the first five, only by hand.

    Attributes:
        new_samples: so many new samples with an answer since the last job's; 0: what `training.min_samples` says.
        daily_at: at this time of the day, UTC, as "03:00"; a time that was missed is made up for.
        every_s: so long after the last job was queued; without one, after the first `min_new_samples`.
        on_drift: a device's drift incident is open, and began after the last job that ended well.
        agreement_floor: the estimated share of final answers that are the teacher's is surely (its interval's upper
            end) below this. Looked at again when the whole of the estimate's period lies after the last good job.
        min_new_samples: fewer hold back a job that drift, the floor or the schedule ask for: it would learn nothing.
        cooldown_s: from the end of a job, however it was started, to the next automatic one; doubled with each job in
            a row that failed or did not pass its gate, 16-fold at most.
        budget_s: automatic jobs wait while the task has trained so long in the last 24 hours; a job that is under way
            is not cut off. None: no limit.
    """

    new_samples: Annotated[int, Field(ge=0)] = 0
    daily_at: time | None = None
    every_s: Annotated[float, Field(gt=0.0, le=_YEAR_S)] | None = None
    on_drift: bool = False
    agreement_floor: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    min_new_samples: Annotated[int, Field(ge=1)] = 30
    cooldown_s: Annotated[float, Field(ge=0.0, le=_YEAR_S)] = 3_600.0
    budget_s: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None

    @field_validator("daily_at")
    @classmethod
    def _has_no_zone(cls, value: time | None) -> time | None:
        if value is not None and value.tzinfo is not None:
            raise ValueError('give the time in UTC and without a zone, as "03:00"')
        return value

    @property
    def automatic(self) -> bool:
        """Whether anything but a person starts jobs."""
        schedule = self.daily_at is not None or self.every_s is not None
        return self.new_samples > 0 or schedule or self.on_drift or self.agreement_floor is not None


class Trigger(StrEnum):
    """What started a job."""

    MANUAL = "manual"
    SAMPLES = "samples"
    SCHEDULE = "schedule"
    DRIFT = "drift"
    AGREEMENT = "agreement"


class Standing(StrEnum):
    """What was decided; `held`: a job is due, and something holds it back."""

    IDLE = "idle"
    HELD = "held"
    DUE = "due"


@dataclass(frozen=True, slots=True)
class Agreed:
    """The estimated agreement of the task's final answers with the teacher.

    Attributes:
        low, high: of the 95 % interval; 0 and 1 when nothing is known.
        audits: that it rests on.
        since: how far back it looks.
    """

    low: float
    high: float
    audits: int
    since: datetime


@dataclass(frozen=True, slots=True)
class Drift:
    """An open incident, in its own words."""

    opened_at: datetime
    sentence: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is to decide by.

    Attributes:
        now: aware, like all the times.
        waiting: why no job can be queued now, such as "job 0192… runs"; empty: none is under way.
        new_samples: with an answer, since the last job that did not fail.
        ripe_at: when the `min_new_samples`-th of them was stored; None: they are fewer.
        queued_at, ended_at: of the newest job; None: there was none.
        good_at: end of the newest job that passed its gate.
        setbacks: newest jobs in a row that failed or did not pass their gate; cancelled ones do not count.
        failed: the newest job failed.
        trained_s: seconds of training in the last 24 hours.
        drifts: open incidents of the task, newest first.
        agreed: None: not estimated yet.
    """

    now: datetime
    waiting: str = ""
    new_samples: int = 0
    ripe_at: datetime | None = None
    queued_at: datetime | None = None
    ended_at: datetime | None = None
    good_at: datetime | None = None
    setbacks: int = 0
    failed: bool = False
    trained_s: float = 0.0
    drifts: Sequence[Drift] = ()
    agreed: Agreed | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done, and why.

    Attributes:
        trigger: what asks for a job, when one is due or held back.
        until: when the cool-down ends that holds it back.
    """

    standing: Standing
    reason: str
    trigger: Trigger | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Cause:
    trigger: Trigger
    words: str


@dataclass(frozen=True, slots=True)
class Spell:
    """A stretch of training that ended, or still goes on, at `until`."""

    seconds: float
    until: datetime


def decide(rules: TriggerRules, seen: Seen) -> Decision:
    """Whether a job is due now, with the reason for people."""
    if not rules.automatic:
        return Decision(Standing.IDLE, "jobs are started by hand: the task has no trigger")
    if seen.waiting:
        return Decision(Standing.IDLE, seen.waiting)
    causes = list(_causes(rules, seen))
    if not causes:
        return Decision(Standing.IDLE, "; ".join(_missing(rules, seen)))
    able = [cause for cause in causes if cause.trigger is Trigger.SAMPLES or seen.ripe_at is not None]
    if not able:
        few = f"but {seen.new_samples} of {rules.min_new_samples} new samples: there is too little to learn"
        return Decision(Standing.HELD, f"{causes[0].words}, {few}", causes[0].trigger)
    cause = able[0]
    until = cool_until(rules, seen)
    if until is not None and seen.now < until:
        return Decision(Standing.HELD, f"{cause.words}, but {_cooling(seen, until)}", cause.trigger, until)
    if rules.budget_s is not None and seen.trained_s >= rules.budget_s:
        spent = f"but it has trained {seen.trained_s:,.0f} s in 24 hours and may {rules.budget_s:,.0f} s"
        return Decision(Standing.HELD, f"{cause.words}, {spent}", cause.trigger)
    return Decision(Standing.DUE, cause.words, cause.trigger)


def cool_until(rules: TriggerRules, seen: Seen) -> datetime | None:
    """When the cool-down ends; None: there was no job."""
    if seen.ended_at is None:
        return None
    pause = timedelta(seconds=rules.cooldown_s)
    if seen.failed:
        pause = max(pause, AFTER_FAILURE)
    return seen.ended_at + pause * (1 << min(seen.setbacks, MAX_DOUBLINGS))


def trained(spells: Sequence[Spell], now: datetime) -> float:
    """Seconds of training in the last 24 hours; of a stretch that began earlier only the part within."""
    edge = now - DAY
    return sum(min(spell.seconds, max(0.0, (spell.until - edge).total_seconds())) for spell in spells)


def _causes(rules: TriggerRules, seen: Seen) -> Iterator[_Cause]:
    """What asks for a job, the most telling first."""
    if rules.on_drift and (drifts := _unanswered(seen)):
        more = f" (and {len(drifts) - 1} more)" if len(drifts) > 1 else ""
        yield _Cause(Trigger.DRIFT, f"drift: {drifts[0].sentence}{more}")
    if (floor := rules.agreement_floor) is not None and (found := _fresh(seen)) is not None and found.high < floor:
        words = f"at most {found.high:.1%} of the answers are the teacher's by {found.audits} audits"
        yield _Cause(Trigger.AGREEMENT, f"{words}, the floor is {floor:.1%}")
    if 0 < rules.new_samples <= seen.new_samples:
        yield _Cause(Trigger.SAMPLES, f"{seen.new_samples:,} new samples, {rules.new_samples:,} start a job")
    if (at := rules.daily_at) is not None and _daily_is_due(at, seen):
        yield _Cause(Trigger.SCHEDULE, f"the daily job of {at:%H:%M} UTC")
    if rules.every_s is not None and (next_at := _next_interval(rules.every_s, seen)) and next_at <= seen.now:
        yield _Cause(Trigger.SCHEDULE, f"a job every {_duration(rules.every_s)}")


def _unanswered(seen: Seen) -> list[Drift]:
    """Incidents that no good job came after: one that did is the answer, as soon as it is deployed."""
    return [drift for drift in seen.drifts if seen.good_at is None or drift.opened_at > seen.good_at]


def _fresh(seen: Seen) -> Agreed | None:
    """The estimate, unless it looks back at what the last good job was to mend."""
    if seen.agreed is None or (seen.good_at is not None and seen.agreed.since < seen.good_at):
        return None
    return seen.agreed


def _daily_is_due(at: time, seen: Seen) -> bool:
    """The last such time came after the last job, and there was enough to learn by then."""
    last = _last(at, seen.now)
    return (seen.queued_at is None or seen.queued_at < last) and seen.ripe_at is not None and seen.ripe_at <= last


def _last(at: time, now: datetime) -> datetime:
    today = datetime.combine(now.date(), at, tzinfo=now.tzinfo)
    return today if today <= now else today - DAY


def _next_interval(every_s: float, seen: Seen) -> datetime | None:
    begun = seen.queued_at or seen.ripe_at
    return begun + timedelta(seconds=every_s) if begun is not None else None


def _cooling(seen: Seen, until: datetime) -> str:
    after = f" after {seen.setbacks} in a row without success" if seen.setbacks else ""
    return f"the cool-down lasts until {until:%Y-%m-%d %H:%M:%S} UTC{after}"


def _missing(rules: TriggerRules, seen: Seen) -> Iterator[str]:
    """What would have to come for a job to be due."""
    if rules.new_samples:
        yield f"{seen.new_samples:,} of {rules.new_samples:,} new samples"
    if rules.on_drift:
        yield "drift: the last good job came after it" if seen.drifts else "no drift"
    if (floor := rules.agreement_floor) is not None:
        yield _missing_agreement(floor, seen)
    if (at := rules.daily_at) is not None:
        due = _last(at, seen.now) + DAY
        yield f"the next daily job is at {due:%Y-%m-%d %H:%M} UTC, with {rules.min_new_samples} new samples by then"
    if rules.every_s is not None:
        due_at = _next_interval(rules.every_s, seen)
        when = f"at {due_at:%Y-%m-%d %H:%M:%S} UTC" if due_at else f"once there are {rules.min_new_samples} new samples"
        yield f"the next interval ends {when}"


def _missing_agreement(floor: float, seen: Seen) -> str:
    if seen.agreed is None:
        return "the agreement is not estimated yet"
    if _fresh(seen) is None:
        return f"the estimate looks back to {seen.agreed.since:%Y-%m-%d %H:%M} UTC, before the end of the last good job"
    return f"the agreement may be {seen.agreed.high:.1%}, not under the floor of {floor:.1%}"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
