"""What became of a device's samples: how many stayed because it was sure, went up, or were hard and stayed. Pure.

Telemetry counts all of them since the agent's first start, so the difference of two reports tells what happened in
between. Without two such reports the audits tell it: one that was drawn with probability p stands for 1/p − 1 samples
that stayed. What was hard and stayed nevertheless (duplicates, a spent budget) leaves no trace in them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from cloud_service.estimates.evidence import Tally, total
from shared.messages import TaskCounts

# Fewer samples between two reports say too little about the shares.
ENOUGH_SAMPLES = 200
# Reports that are kept of one device and task, evenly over the period.
_KEPT_REPORTS = 24


class Basis(StrEnum):
    """Where a composition comes from."""

    TELEMETRY = "telemetry"
    AUDITS = "audits"


@dataclass(frozen=True, slots=True)
class Composition:
    """Samples of one device in a period; numbers need not be whole.

    Attributes:
        kept: the device was sure, and they stayed.
        audits: the device was sure, and they were drawn at random to go up.
        hard: went up because they were hard.
        left: hard, and stayed: like one that went up, withheld, over the budget, or dropped.
        kept_error: standard error of `kept`; 0 where it was counted.
    """

    kept: float
    audits: float
    hard: float
    left: float
    basis: Basis
    kept_error: float = 0.0

    @property
    def samples(self) -> float:
        return self.kept + self.audits + self.hard + self.left


def from_audits(tallies: Sequence[Tally]) -> Composition:
    """The composition as one device's uploads tell it; the error is that of the number of audits that were drawn."""
    audits = total(tally for tally in tallies if tally.audit)
    unseen = audits.unseen
    hard = sum(tally.count for tally in tallies if not tally.audit)
    # Var(Σ (1/p − 1)) = Σ (1 − p)/p² = Σ (w² − w) over what was drawn (Horvitz and Thompson 1952).
    error = math.sqrt(max(0.0, audits.squares - audits.weight))
    return Composition(unseen.weight, audits.count, hard, 0.0, Basis.AUDITS, error)


@dataclass(frozen=True, slots=True)
class _Report:
    """What telemetry had counted by then, since the agent's first start."""

    at: datetime
    inferences: int
    kept: int
    audits: int
    hard: int
    left: int

    @property
    def counted(self) -> int:
        return self.kept + self.audits + self.hard + self.left


class Reports:
    """The telemetry counts of one device and task over a period, oldest first."""

    def __init__(self) -> None:
        self._seen: deque[_Report] = deque()
        # The shortest time between two reports, which is about how often the device sends them.
        self._interval: timedelta | None = None

    def add(self, at: datetime, counts: TaskCounts, *, since: datetime) -> None:
        """Take a report and let go of what the period that began at `since` does not need.

        `at` is when the report itself came: one that is taken again has the same.
        Counts that went down are those of a device that was set up anew: what came before is forgotten.
        """
        seen = self._seen
        if seen and counts.inferences < seen[-1].inferences:
            seen.clear()
        if seen and at > seen[-1].at:
            self._interval = min(at - seen[-1].at, self._interval or timedelta.max)
        while len(seen) > 1 and seen[1].at <= since:
            seen.popleft()
        if len(seen) > 1 and at - seen[-2].at < (at - since) / _KEPT_REPORTS:
            seen.pop()
        seen.append(_report(at, counts))

    def composition(self, *, since: datetime, until: datetime) -> Composition | None:
        """What happened between the oldest report and the newest, for the whole period; None: too little is known.

        For a device that reports no more, the period ends where its next report was due: it is off, not unseen.
        """
        if not self._seen or self._interval is None:
            return None
        first, last = self._seen[0], self._seen[-1]
        until = min(until, last.at + self._interval)
        # The oldest report is a little older than the period, or a good deal younger.
        factor = (until - since) / max(last.at - first.at, timedelta(seconds=1))
        counted = Composition(
            kept=max(0, last.kept - first.kept) * factor,
            audits=max(0, last.audits - first.audits) * factor,
            hard=max(0, last.hard - first.hard) * factor,
            left=max(0, last.left - first.left) * factor,
            basis=Basis.TELEMETRY,
        )
        return counted if last.counted - first.counted >= ENOUGH_SAMPLES else None


def _report(at: datetime, counts: TaskCounts) -> _Report:
    stayed = counts.duplicates + counts.withheld + counts.over_budget
    return _Report(
        at=at,
        inferences=counts.inferences,
        kept=counts.kept - stayed,
        audits=counts.audits,
        hard=counts.offloaded + counts.deferred - counts.audits,
        left=stayed + counts.dropped,
    )
