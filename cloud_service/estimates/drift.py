"""When a device sees something else than before: three detectors on its stream, an incident when two agree. Pure.

* ADWIN (Bifet and Gavaldà 2007) on the raw score, δ 0.002: slow and sure that the mean has changed, up or down.
* Page–Hinkley (Page 1954) on the standardised score, δ 0.2, λ 50: fast, and only where scores rise. Standardised on the
  log-odds by the first hundred samples; scores outside [0, 1] (energy) as they are.
* The audit bound: of the last 250 audits so many differ from the teacher that the upper end of the agreement's interval
  (Wilson 1927) is below the task's goal.

Never on what the device's threshold makes of the scores: a budget that steers it hides drift by construction.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from cloud_service.estimates.stream import Scored, Thinning
from shared.intervals import wilson

# Samples of the stream: that standardise the score; within which two detectors have to agree; that tell the present.
REFERENCE, TOGETHER, RECENT = 100, 500, 50
# The last audits that count, and fewer than this say nothing yet.
AUDITS, ENOUGH_AUDITS = 250, 30
# So many samples in a row of another model, and the watch begins anew with it; fewer are stragglers of the old one.
NEW_MODEL_AFTER = 20
_NEAREST = 1e-6  # a score that is nearer to 0 or 1 counts as this near
_SMALLEST_DEVIATION = 1e-3


class Alarm(StrEnum):
    """What can tell of drift."""

    ADWIN = "adwin"
    PAGE_HINKLEY = "page_hinkley"
    AUDIT_BOUND = "audit_bound"


class Detector(Protocol):
    """A change detector over a stream."""

    def update(self, value: float) -> bool:
        """Take the next value; True: the stream has changed."""
        ...


@dataclass(frozen=True, slots=True)
class Detectors:
    """A fresh pair, for one stream."""

    adwin: Detector
    page_hinkley: Detector


@dataclass(frozen=True, slots=True)
class Evidence:
    """How a stream stands.

    Attributes:
        alarms: detectors that say so, each with how many samples of the stream ago.
        stream: samples of the stream since the model came.
        number: of the newest sample in the store.
        before, now: mean raw score of the first hundred samples of the stream and of the last fifty.
        audits, differing: the last audits with a verdict, and those that say something else than the device.
        agreement_high: upper end of the interval of the share of answers that are the teacher's in the end.
        audit_fraction: share of the device's samples that is in the stream.
    """

    bundle_version: str
    alarms: dict[Alarm, int]
    stream: int
    number: int
    before: float
    now: float
    audits: int
    differing: int
    agreement_high: float
    goal: float
    audit_fraction: float


@dataclass(frozen=True, slots=True)
class Opened:
    """Two detectors agree since this sample."""

    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Closed:
    """The incident is over, and why."""

    reason: str


class Watch:
    """The stream of one task of one device.

    Args:
        detectors: makes a fresh pair; called when a new model begins to answer.
        goal: share of the answers in the end that should be the teacher's.
    """

    def __init__(self, detectors: Callable[[], Detectors], *, goal: float) -> None:
        self._make, self._goal = detectors, goal
        self._thinning = Thinning()
        self._version, self._of_another = "", 0
        self.open: Evidence | None = None
        self._begin()

    def _begin(self) -> None:
        self._detectors = self._make()
        self._stream = 0
        self._first: list[float] = []
        self._before, self._mean, self._deviation, self._odds = 0.0, 0.0, 1.0, True
        self._alarms: dict[Alarm, int] = {}
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._kinds: deque[bool] = deque(maxlen=TOGETHER)
        self._audits: deque[bool] = deque(maxlen=AUDITS)

    @property
    def stream(self) -> int:
        """Samples of the stream since the model came."""
        return self._stream

    @property
    def alarms(self) -> frozenset[Alarm]:
        """Detectors that have spoken within the last 500 samples of the stream."""
        return frozenset(alarm for alarm, at in self._alarms.items() if self._stream - at < TOGETHER)

    def observe(self, sample: Scored) -> Opened | Closed | None:
        """Take the device's next upload, in the store's order."""
        if not self._thinning.keeps(sample):
            return None
        ended = self._change_model(sample)
        if ended is not None or sample.bundle_version != self._version:
            return ended
        self._stream += 1
        self._look(sample)
        return self._conclude(sample)

    def _change_model(self, sample: Scored) -> Closed | None:
        if sample.bundle_version == self._version:
            self._of_another = 0
            return None
        self._of_another += 1
        if self._version and self._of_another < NEW_MODEL_AFTER:
            return None
        first, self._version, self._of_another = not self._version, sample.bundle_version, 0
        if first:
            return None
        self._begin()
        was_open, self.open = self.open is not None, None
        return Closed(f"model {sample.bundle_version} answers now") if was_open else None

    def _look(self, sample: Scored) -> None:
        self._recent.append(sample.score)
        self._kinds.append(sample.audit)
        if sample.audit and sample.agreed is not None:
            self._audits.append(not sample.agreed)
        if self._detectors.adwin.update(sample.score):
            self._alarms[Alarm.ADWIN] = self._stream
        if self._stream <= REFERENCE:
            self._first.append(sample.score)
            self._before = _mean(self._first)
            if self._stream == REFERENCE:
                self._settle()
        elif self._detectors.page_hinkley.update((self._scaled(sample.score) - self._mean) / self._deviation):
            self._alarms[Alarm.PAGE_HINKLEY] = self._stream
        if len(self._audits) >= ENOUGH_AUDITS and self._bound() < self._goal:
            self._alarms[Alarm.AUDIT_BOUND] = self._stream

    def _settle(self) -> None:
        self._odds = all(0.0 <= score <= 1.0 for score in self._first)
        scaled = [self._scaled(score) for score in self._first]
        self._mean = _mean(scaled)
        spread = math.sqrt(_mean((value - self._mean) ** 2 for value in scaled))
        self._deviation = max(spread, _SMALLEST_DEVIATION)
        self._first = []

    def _scaled(self, score: float) -> float:
        if not self._odds:
            return score
        bounded = min(max(score, _NEAREST), 1.0 - _NEAREST)
        return math.log(bounded / (1.0 - bounded))

    def _bound(self) -> float:
        """In the stream audits and hard samples are as frequent as on the device, so it tells the kept share."""
        confident = sum(self._kinds) / len(self._kinds)
        fewest, _ = wilson(sum(self._audits), len(self._audits))
        fraction = self._thinning.fraction or 0.0
        return 1.0 - confident * (1.0 - fraction) * fewest

    def _conclude(self, sample: Scored) -> Opened | Closed | None:
        alarms = self.alarms
        if self.open is None and len(alarms) > 1:
            self.open = self._evidence(sample)
            return Opened(self.open)
        # Said again now and then: the incident may be of before a restart.
        if not alarms and (self.open is not None or self._stream % TOGETHER == 0):
            self.open = None
            return Closed(f"no detector has spoken for {TOGETHER} samples of the stream")
        return None

    def _evidence(self, sample: Scored) -> Evidence:
        return Evidence(
            bundle_version=self._version,
            alarms={alarm: self._stream - at for alarm, at in sorted(self._alarms.items()) if alarm in self.alarms},
            stream=self._stream,
            number=sample.number,
            before=self._before,
            now=_mean(self._recent),
            audits=len(self._audits),
            differing=sum(self._audits),
            agreement_high=self._bound(),
            goal=self._goal,
            audit_fraction=self._thinning.fraction or 0.0,
        )


_NAMES = {
    Alarm.ADWIN: "ADWIN",
    Alarm.PAGE_HINKLEY: "Page–Hinkley",
    Alarm.AUDIT_BOUND: "the audits",
}


def sentence(task: str, device: str, evidence: Evidence) -> str:
    """What an operator reads."""
    said = " and ".join(_NAMES[alarm] for alarm in evidence.alarms)
    words = (
        f"device {device}, task {task}: what it sees has changed, say {said}: "
        f"its model's mean score is {evidence.now:.3g}, it was {evidence.before:.3g} when the model came"
    )
    if Alarm.AUDIT_BOUND in evidence.alarms:
        words += (
            f"; of {evidence.audits} audits {evidence.differing} differ from the teacher, so at most "
            f"{evidence.agreement_high:.1%} of the answers are the teacher's and the goal is {evidence.goal:.1%}"
        )
    return words


def _mean(values: Iterable[float]) -> float:
    all_ = list(values)
    return sum(all_) / len(all_)
