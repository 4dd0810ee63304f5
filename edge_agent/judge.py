"""One task's decisions with the state that they need: hardness → steadiness → budget → duplicates → policy.

The rules themselves are pure and in `edge_agent.deciding`; this gives them a lock, a clock and dice. Thread-safe.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.deciding import policy
from edge_agent.deciding.budget import Budget
from edge_agent.deciding.duplicates import RecentlySent
from edge_agent.deciding.hardness import Hardness, assess
from edge_agent.deciding.policy import Candidate, Circumstances, Decision, OffloadMode
from edge_agent.deciding.steadiness import Steadiness
from edge_agent.request import Request
from edge_agent.settings import TaskSettings
from shared.manifest import Manifest
from shared.messages import BudgetState, Reason, SampleHeader

_FARTHEST = 2.0


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was decided of one sample, and what the decision rested on.

    Attributes:
        embedding: float32 [E] of a sample that goes up, where the model gives one.
        rarity: in [0, 1]: how unlike it is to what went up lately.
    """

    hardness: Hardness
    decision: Decision
    embedding: NDArray[np.float32] | None = None
    rarity: float = 0.0


class Judge:
    """See the module."""

    def __init__(
        self,
        settings: TaskSettings,
        manifest: Manifest,
        *,
        rng: Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._rng, self._clock = settings, rng, clock
        self._lock = threading.Lock()
        self._circumstances = policy.UNDISTURBED
        self._budget = Budget(
            settings.budget,
            audit_fraction=settings.audit_fraction if settings.offload is OffloadMode.HARD_AND_AUDIT else 0.0,
            threshold=manifest.threshold,
            score=manifest.score,
            spread=manifest.spread,
            version=manifest.version,
        )
        self._sent = RecentlySent(settings.duplicates) if settings.duplicates.distance else None
        steadiness = settings.steadiness
        watches = steadiness.flicker_changes or steadiness.empty_label is not None
        self._steadiness = Steadiness(steadiness, manifest.labels) if watches else None

    @property
    def wants_embedding(self) -> bool:
        """Whether embeddings are compared at all."""
        return self._sent is not None

    def judge(
        self,
        request: Request,
        logits: NDArray[np.float32],
        embedding: NDArray[np.float32] | None,
        *,
        manifest: Manifest,
        waited_for: bool,
    ) -> Judgement:
        """Decide on one sample; the caller says by `settle` what became of one that goes up."""
        settings = self._settings
        with self._lock:
            audits = self._budget.audit_fraction if request.audit_fraction is None else request.audit_fraction
            hardness = assess(logits, manifest, threshold=self._budget.threshold)
            unsteady = self._steadiness.observe(hardness.prediction) if self._steadiness and hardness.valid else None
            decision = policy.select(
                hardness,
                mode=settings.offload,
                audit_fraction=audits,
                draw=self._rng.random(),
                unsteady=unsteady,
                circumstances=self._circumstances,
            )
            if not decision.goes_up:
                self._observe(Judgement(hardness, decision), 0)
                return Judgement(hardness, decision)
            return self._placed(hardness, decision, request, embedding, waited_for=waited_for)

    def settle(self, judgement: Judgement, *, sent: bool, size_bytes: int) -> None:
        """A sample that should go up was spooled, or was not after all."""
        with self._lock:
            now = self._observe(judgement, size_bytes if sent else 0, sent=sent)
            if sent and self._sent is not None and judgement.embedding is not None:
                self._sent.remember(judgement.embedding, now)

    def judged(self, header: SampleHeader, *, agreed: bool) -> None:
        """The verdict on a sample that went up with this header."""
        with self._lock:
            audited, version = header.reason is Reason.AUDIT, header.bundle_version
            self._budget.judged(header.hardness, agreed=agreed, audited=audited, version=version)

    def under(self, circumstances: Circumstances) -> None:
        """The device has it harder or easier from now on."""
        self._circumstances = circumstances

    def met(self, manifest: Manifest) -> None:
        """Another model answers from now on."""
        with self._lock:
            self._budget.retargeted(manifest.threshold, manifest.spread, score=manifest.score, version=manifest.version)
            if self._sent is not None:
                self._sent.forget()  # another model's embeddings mean something else

    def budget(self) -> BudgetState:
        """How the budget stands."""
        with self._lock:
            return self._budget.state()

    def saved(self) -> dict[str, Any]:
        """For JSON: what `restore` takes after a restart."""
        with self._lock:
            return self._budget.saved()

    def restore(self, saved: Mapping[str, Any]) -> bool:
        """Go on with what was steered before a restart; False: it is not what `saved` gave."""
        with self._lock:
            return self._budget.restore(saved)

    def _placed(
        self,
        hardness: Hardness,
        decision: Decision,
        request: Request,
        embedding: NDArray[np.float32] | None,
        *,
        waited_for: bool,
    ) -> Judgement:
        now = self._clock()
        distance = _FARTHEST
        if self._sent is not None and embedding is not None:
            distance = self._sent.nearest(embedding, now)
        candidate = Candidate(
            decision,
            waited_for=waited_for and decision.reason is not Reason.AUDIT,
            duplicate=self._sent is not None and self._sent.is_duplicate(distance),
            affordable=self._budget.admits(now, request.tensor.nbytes),
        )
        placed = policy.place(candidate, self._circumstances)
        judgement = Judgement(hardness, placed, embedding, min(1.0, distance / _FARTHEST))
        if not placed.goes_up:
            self._observe(judgement, 0, wanted=decision)
        return judgement

    def _observe(
        self, judgement: Judgement, size_bytes: int, *, sent: bool = False, wanted: Decision | None = None
    ) -> float:
        now = self._clock()
        reason = (wanted or judgement.decision).reason
        self._budget.observed(
            judgement.hardness.score,
            hard=judgement.hardness.hard or reason in {Reason.FLICKER, Reason.EMPTY},
            sent=sent,
            audited=sent and reason is Reason.AUDIT,
            size_bytes=size_bytes,
            now_s=now,
        )
        return now
