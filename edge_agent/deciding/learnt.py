"""What a budget has learnt of one model, kept while another answers: a return goes on where it was. Pure."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

from edge_agent.deciding.agreement import Verdicts
from edge_agent.deciding.averages import LONGER, Average
from edge_agent.deciding.steering import Scale, Spread, Steered
from shared.manifest import ScoreSpread
from shared.uncertainty import Score

# A device's own model and the smaller one, before and after an update.
MAX_MODELS = 4


@dataclass(frozen=True, slots=True)
class Model:
    """A model, as far as a budget can tell it from another.

    Attributes:
        threshold: the manifest's.
        score: which score the threshold is of.
    """

    version: str
    threshold: float | None
    score: Score


class Learnt:
    """Where the model's scores lie, where its thresholds were steered to, and how it does.

    Attributes:
        limit, goal: the threshold that holds the limits, and the one that reaches the agreement.
        left: share of the samples that were hard and did not go up.
        wanted, needs: share that would have to go up for the goal, now and in the long run.
        audited, offloaded: the verdicts on both.
    """

    def __init__(self, model: Model, spread: ScoreSpread | None) -> None:
        self.model = model
        self.scale, self.spread = Scale(model.score), Spread(spread)
        self.limit = Steered(self.scale, self.spread, model.threshold)
        self.goal = Steered(self.scale, self.spread, model.threshold)
        self.left, self.wanted, self.needs = Average(), Average(), Average(long=LONGER)
        self.audited, self.offloaded = Verdicts(), Verdicts()

    def settle(self) -> None:
        """Without a threshold to begin with, begin where about one of six is hard, as soon as that is known."""
        if self.spread.known and math.isinf(self.limit.units):
            for steered in (self.limit, self.goal):
                steered.place(self.spread.mean + self.spread.deviation)


class Models:
    """What was learnt of the last `MAX_MODELS` that answered."""

    def __init__(self) -> None:
        self._learnt: OrderedDict[Model, Learnt] = OrderedDict()

    def of(self, model: Model, spread: ScoreSpread | None) -> Learnt:
        """What is known of this one, which answers from now on; of one that is new nothing."""
        learnt = self._learnt.pop(model, None) or Learnt(model, spread)
        self._learnt[model] = learnt
        while len(self._learnt) > MAX_MODELS:
            self._learnt.popitem(last=False)
        return learnt

    def named(self, version: str) -> Learnt | None:
        """The last one of this version; None: it is not known, or no more."""
        return next((self._learnt[model] for model in reversed(self._learnt) if model.version == version), None)
