"""Holds what the user said matters by moving the threshold while the data drifts. Pure: samples and verdicts in.

Three parts, each with one job:

* `offload` and `bytes_per_day` are limits. A threshold follows that quantile of the scores which sends their share
  (online quantile tracking, after Gibbs and Candès 2021): after each sample it rises by `speed` · (hard − share)
  deviations. It needs no model of the drift and is right in the long run under any.
* Token buckets refuse what comes too thick. They never cause anything to be sent; how full they are makes the share
  aimed at a little larger or smaller, so that in the long run nothing is left over and little is refused by chance.
* `agreement` is a goal. A second threshold falls with each audited sample that the device had wrong, and rises a little
  with each that it had right. The higher threshold counts: the goal is never met at the cost of a limit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from pydantic import JsonValue, ValidationError

from edge_agent.deciding.agreement import Estimate, Verdicts, estimate
from edge_agent.deciding.averages import LONG, LONGER, Average
from edge_agent.deciding.learnt import Model, Models
from edge_agent.deciding.limits import Limits
from edge_agent.deciding.remembered import Remembered
from edge_agent.deciding.settings import BudgetSettings
from shared.manifest import ScoreSpread
from shared.messages import BudgetState
from shared.uncertainty import Score

# Of an allowed share audits get this much at most: a budget that they ate up would send nothing that is hard.
_AUDITS_SHARE = 1 / 3
_AGREEMENT_STEP = 0.5  # deviations for one disagreement
_ENOUGH_AUDITS = 30  # to say whether a goal is met
_CLEARLY = 1.25  # times a limit: what would be needed is known within a few points only
_INVALID = 1.0  # the score of an output that is not valid: it says nothing of where scores lie


class Budget:
    """One task's budget. Not thread-safe: `admits`, then `observed`, for one sample after the other.

    Args:
        audit_fraction: share of the confident samples that is to go up at random; 0 where none may.
        threshold: the manifest's; kept while nothing is to be held.
        score: which score the threshold is of.
        spread: the manifest's; without it the first samples tell, and until 30 are seen the threshold stays.
        version: of the model.
    """

    def __init__(
        self,
        settings: BudgetSettings,
        *,
        audit_fraction: float,
        threshold: float | None,
        score: Score,
        spread: ScoreSpread | None,
        version: str = "",
    ) -> None:
        self._settings = settings
        self._audit_fraction = audit_fraction
        self._steers = settings.is_set
        self._limits = Limits(settings)
        self._sent, self._audits = Average(), Average(audit_fraction, LONG)
        self._models = Models()
        self._begin(Model(version, threshold, score), spread)

    def _begin(self, model: Model, spread: ScoreSpread | None) -> None:
        self._own = self._models.of(model, spread)
        self._own.settle()
        self._choose()

    @property
    def threshold(self) -> float | None:
        """A sample is hard when its score is at or above this; None: never by its score."""
        return self._threshold

    @property
    def audit_fraction(self) -> float:
        """The share of the confident samples to audit: the user's, or what a third of the limits allows."""
        if not self._limits.any:
            return self._audit_fraction
        return min(self._audit_fraction, self._limits.share * _AUDITS_SHARE)

    def admits(self, now_s: float, size_bytes: int) -> bool:
        """Whether the limits have room for one more sample, an audit or a hard one, of that size.

        Args:
            now_s: a time that never goes back.
        """
        return self._limits.admits(size_bytes, now_s)

    def observed(self, score: float, *, hard: bool, sent: bool, audited: bool, size_bytes: int, now_s: float) -> None:
        """Take every sample, whatever became of it.

        Args:
            hard: by its score or for another reason, and whether or not it was sent.
            sent: it goes up, now or when the device has it easier.
            audited: it was sent as an audit.
            size_bytes: what it costs; of one that is not sent it does not count.
        """
        self._limits.passed(size_bytes, now_s, sent=sent)
        self._sent.observe(sent)
        self._own.left.observe(hard and not sent)
        if not self._steers:
            return
        self._audits.observe(audited)
        if self._own.spread.learning and score != _INVALID:
            self._own.spread.observe(self._own.scale.units(score))
            self._own.settle()
        if self._own.spread.known:
            self._steer(score, chosen=hard or (sent and not audited))

    def judged(self, score: float, *, agreed: bool, audited: bool, version: str | None = None) -> None:
        """Take the verdict on a sample that went up as an audit, or because it was hard.

        Args:
            score: the sample's, as it was when it went up.
            agreed: the teacher said what the device had said.
            version: of the model that had said it; None: the one that answers now. One that is not known any more is
                nobody's business.
        """
        own = self._own if version is None else self._models.named(version)
        if own is None:
            return
        (own.audited if audited else own.offloaded).add(agreed=agreed)
        goal = self._settings.agreement
        # One that would go up by now in any case says nothing of what is kept.
        if goal is None or not (audited and own.spread.known) or score >= own.goal.threshold:
            return
        kept = 1.0 - own.wanted.value
        allowed = (1.0 - goal) / max(kept, 1.0 - goal)
        own.goal.move(_AGREEMENT_STEP * (allowed - (not agreed)), beyond=0.0)
        self._choose()

    def retargeted(
        self, threshold: float | None, spread: ScoreSpread | None, *, score: Score | None = None, version: str = ""
    ) -> None:
        """Another model answers from now on; what was spent stays spent.

        What was learnt of the last few is kept: one that comes back goes on where it was.

        Args:
            score: which score the model's threshold is of; None: the same.
            version: by which it is known again.
        """
        self._begin(Model(version, threshold, score or self._own.model.score), spread)

    def state(self) -> BudgetState:
        """How it stands, over about the last 500 samples and 250 audits; what a goal would need, over 2,000."""
        known = self._sent.seen > 0
        agreement = self._estimate() if known and len(self._own.audited) else None
        needed = self._needed() if known and self._settings.agreement is not None and self._own.spread.known else None
        return BudgetState(
            threshold=self._threshold,
            offload=self._sent.value if known else None,
            agreement=None if agreement is None else agreement.value,
            agreement_low=None if agreement is None else agreement.low,
            agreement_high=None if agreement is None else agreement.high,
            goal_met=self._goal_met(needed, agreement),
            would_need=needed,
        )

    def saved(self) -> dict[str, JsonValue]:
        """What has to outlast a restart."""
        limits, rate, bytes_ = self._limits, self._limits.rate, self._limits.bytes
        return Remembered(
            threshold=self._own.model.threshold,
            score=self._own.model.score,
            rate_fullness=rate.fullness if rate else None,
            byte_fullness=bytes_.fullness if bytes_ else None,
            largest_bytes=bytes_.largest if bytes_ else None,
            sent=self._sent.pair,
            audits=self._audits.pair,
            interval_s=limits.interval_s.pair,
            size_bytes=limits.size_bytes.pair,
            left=self._own.left.pair,
            wanted=self._own.wanted.pair,
            needs=self._own.needs.pair,
            limit=self._own.limit.units if math.isfinite(self._own.limit.units) else None,
            goal=self._own.goal.units if math.isfinite(self._own.goal.units) else None,
            spread=self._own.spread.learnt,
            audited=self._own.audited.record,
            offloaded=self._own.offloaded.record,
        ).model_dump(mode="json")

    def restore(self, saved: Mapping[str, JsonValue]) -> bool:
        """Go on from what `saved` gave before a restart; False: it cannot be read, and everything starts anew.

        Of another model only what is not its own is taken: what was spent, and how the samples come.
        """
        try:
            past = Remembered.model_validate(saved)
        except ValidationError:
            return False
        limits, rate, bytes_ = self._limits, self._limits.rate, self._limits.bytes
        if rate is not None and past.rate_fullness is not None:
            rate.fullness = past.rate_fullness
        if bytes_ is not None and past.byte_fullness is not None and past.largest_bytes is not None:
            bytes_.fullness, bytes_.largest = past.byte_fullness, past.largest_bytes
        self._sent, self._audits = Average(*past.sent), Average(*past.audits)
        limits.interval_s, limits.size_bytes = Average(*past.interval_s), Average(*past.size_bytes)
        if (past.threshold, past.score) == (self._own.model.threshold, self._own.model.score):
            self._resume(past)
        return True

    def _resume(self, past: Remembered) -> None:
        self._own.left, self._own.wanted = Average(*past.left), Average(*past.wanted)
        self._own.needs = Average(*past.needs, long=LONGER)
        self._own.audited, self._own.offloaded = Verdicts(past.audited), Verdicts(past.offloaded)
        if past.spread is not None:
            self._own.spread.learnt = past.spread
        if self._own.spread.known:
            for steered, units in ((self._own.limit, past.limit), (self._own.goal, past.goal)):
                if units is not None:
                    steered.place(units)
                    steered.move(0.0)
        self._own.settle()
        self._choose()

    def _steer(self, score: float, *, chosen: bool) -> None:
        limit = self._own.limit
        if self._limits.any:
            # Its own quantile, whichever threshold counts, and what goes up for another reason than its score.
            over = chosen or score >= limit.threshold
            limit.move(self._settings.speed * (over - max(0.0, self._limits.share_now - self._audits.value)))
        if self._settings.agreement is not None:
            wanted = score >= self._own.goal.threshold
            self._own.wanted.observe(wanted)
            self._own.needs.observe(wanted)
        self._choose()

    def _choose(self) -> None:
        if not (self._steers and self._own.spread.known):
            self._threshold = self._own.model.threshold
        elif self._settings.agreement is None:
            self._threshold = self._own.limit.threshold
        elif not self._limits.any:
            self._threshold = self._own.goal.threshold
        else:
            self._threshold = max(self._own.limit.threshold, self._own.goal.threshold)

    def _needed(self) -> float:
        """Share that would go up if the goal alone counted."""
        return min(1.0, self._own.needs.value + self._audits.value)

    def _estimate(self) -> Estimate:
        left = self._own.left.value
        kept = max(0.0, 1.0 - self._sent.value - left)
        return estimate(self._own.audited, self._own.offloaded, kept=kept, left=left)

    def _goal_met(self, needed: float | None, agreement: Estimate | None) -> bool | None:
        goal = self._settings.agreement
        if goal is None:
            return True if self._limits.any else None
        if needed is None or agreement is None or len(self._own.audited) < _ENOUGH_AUDITS:
            return None
        out_of_reach = self._limits.any and needed > _CLEARLY * self._limits.share
        return not (agreement.high < goal or (out_of_reach and agreement.value < goal))
