"""A threshold that is moved in small steps: the scale it is moved on, what its steps are of, and how far it may go."""

from __future__ import annotations

import math

from shared.manifest import ScoreSpread
from shared.uncertainty import Score

# A score that float32 cannot tell from 0 or 1 counts as one of about 1e-7 or 1 − 1e-7.
_NEAREST = 1e-7
_FARTHEST_ODDS = 700.0  # beyond, exp overflows
# Until so many scores were seen their spread is not to be relied on, after so many it is known.
_ENOUGH, _PLENTY = 30, 500
_SMALLEST_DEVIATION = 1e-3
_REACH = 4.0  # deviations beyond what was seen at calibration


class Scale:
    """Scores in [0, 1] are steered as log-odds, where a step near 0 means as much as one elsewhere; energy as it is."""

    def __init__(self, score: Score) -> None:
        self._odds = score is not Score.ENERGY

    def units(self, score: float) -> float:
        """A score on the scale."""
        if not self._odds:
            return score
        bounded = min(max(score, _NEAREST), 1.0 - _NEAREST)
        return math.log(bounded / (1.0 - bounded))

    def score(self, units: float) -> float:
        """The score at a place on the scale."""
        return 1.0 / (1.0 + math.exp(-max(units, -_FARTHEST_ODDS))) if self._odds else units


class Spread:
    """Where the scores lie on the scale: the manifest's word, or what the first 500 samples show.

    Attributes:
        known: there is something to rely on.
        mean, deviation, low, high: as in the manifest.
    """

    def __init__(self, given: ScoreSpread | None) -> None:
        self.known = self._given = given is not None
        self.mean, self.deviation, self.low, self.high = 0.0, 1.0, math.inf, -math.inf
        if given is not None:
            self.mean, self.deviation, self.low, self.high = given.mean, given.deviation, given.low, given.high
        self._seen, self._squares = (_PLENTY if self.known else 0), 0.0

    @property
    def learnt(self) -> tuple[int, float, float, float, float] | None:
        """What the samples have shown so far: how many, mean, sum of squares, lowest, highest; None: the manifest's."""
        return None if self._given or not self._seen else (self._seen, self.mean, self._squares, self.low, self.high)

    @learnt.setter
    def learnt(self, values: tuple[int, float, float, float, float]) -> None:
        if not self._given:
            self._seen, self.mean, self._squares, self.low, self.high = values
            self._conclude()

    @property
    def learning(self) -> bool:
        """Whether `observe` still changes anything."""
        return self._seen < _PLENTY

    def observe(self, units: float) -> None:
        """Take one score into a running mean and deviation (Welford 1962)."""
        self._seen += 1
        before = units - self.mean
        self.mean += before / self._seen
        self._squares += before * (units - self.mean)
        self.low, self.high = min(self.low, units), max(self.high, units)
        self._conclude()

    def _conclude(self) -> None:
        if self._seen >= _ENOUGH:
            self.known = True
            self.deviation = max(math.sqrt(self._squares / self._seen), _SMALLEST_DEVIATION)


class Steered:
    """One threshold under control.

    Attributes:
        units: where it is on the scale; infinite while nothing is known.
        threshold: the same as a score.
    """

    def __init__(self, scale: Scale, spread: Spread, threshold: float | None) -> None:
        self._scale, self._spread = scale, spread
        self.place(math.inf if threshold is None else scale.units(threshold))

    def place(self, units: float) -> None:
        """Put it somewhere."""
        self.units = units
        self.threshold = self._scale.score(units)

    def move(self, deviations: float, *, beyond: float = _REACH) -> None:
        """Move it up or down by so many standard deviations of the score, as far as the calibration's range reaches.

        Args:
            beyond: how many deviations above that range it may go; below it is always four.
        """
        spread = self._spread
        lowest = spread.low - _REACH * spread.deviation
        highest = spread.high + beyond * spread.deviation
        self.place(min(max(self.units + deviations * spread.deviation, lowest), highest))
