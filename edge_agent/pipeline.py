"""The hot path of one task: engine → hardness → policy → spool → outcome.

Synchronous and in the caller's thread; nothing here waits for the network (unless the caller gave a deadline) or for
the disk's flush.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from random import Random
from time import perf_counter_ns

from edge_agent.deciding import policy
from edge_agent.correlation import Correlation
from edge_agent.execution.engine import Engine
from edge_agent.deciding.hardness import Hardness, assess
from edge_agent.ledger import Ledger
from edge_agent.outcomes import AnsweredBy, Correction, Outcome, Sink
from edge_agent.deciding.policy import Decision
from edge_agent.request import Request
from edge_agent.settings import TaskSettings
from edge_agent.sinks.order import InOrder
from edge_agent.spool.spool import Spool
from shared.errors import StorageFull
from shared.ids import new_id
from shared.manifest import Manifest
from shared.messages import Action, Reason, SampleHeader, Verdict

_SEQ_BITS = 32


class Pipeline:
    """One task's way from a sample to an outcome. Thread-safe.

    Args:
        wake: called after something was spooled; must not block.
    """

    def __init__(
        self,
        name: str,
        settings: TaskSettings,
        engine: Engine,
        *,
        spool: Spool,
        ledger: Ledger,
        correlation: Correlation,
        sink: Sink,
        rng: Random,
        wake: Callable[[], None],
    ) -> None:
        self.name = name
        self._settings = settings
        self._engine = engine
        self._spool, self._ledger, self._correlation = spool, ledger, correlation
        self._sink, self._rng, self._wake = InOrder(sink), rng, wake
        self._lock = threading.Lock()
        # Unique and rising over restarts without a clock: the count of starts, then the count of samples.
        self._seq = ledger.starts << _SEQ_BITS

    @property
    def engine(self) -> Engine:
        """The engine that the next sample will meet."""
        return self._engine

    def swap(self, engine: Engine) -> None:
        """Take a warm engine into use between two samples; one under way ends on the old one."""
        self._engine = engine

    def infer(self, request: Request) -> Outcome:
        """Answer one sample and offload it if it is hard.

        Raises:
            SampleError: the tensor is not of the task's shape and dtype.
            ModelUnusable: the model failed while running.
        """
        started = perf_counter_ns()
        engine = self._engine
        try:
            logits = engine.run(request.tensor)
        except Exception:
            self._ledger.count(self.name, "inferences", "errors")
            raise
        infer_us = (perf_counter_ns() - started) / 1000
        hardness = assess(logits, engine.manifest)
        outcome = self._decided(request, hardness, engine.manifest, infer_us)
        outcome = replace(outcome, total_us=(perf_counter_ns() - started) / 1000)
        self._sink.outcome(outcome)
        return outcome

    def take_verdict(self, verdict: Verdict) -> None:
        """A verdict came: it answers whoever waits, or becomes a correction. Repeated ones change nothing."""
        asked = self._correlation.deliver(verdict)
        header = asked.header if asked else self._spool.header(verdict.sample_id)
        self._spool.acknowledge([verdict.sample_id])
        if header is None:
            return
        agreed = verdict.prediction == header.prediction
        self._ledger.count(self.name, "verdicts", *(["agreed"] if agreed else []))
        if asked is not None and asked.verdict is not None:
            return
        self._sink.correction(
            Correction(
                sample_id=verdict.sample_id,
                task=self.name,
                seq=header.seq,
                label=self._label(verdict.prediction),
                prediction=verdict.prediction,
                confidence=_probability(verdict),
                agreed=agreed,
                bundle_version=header.bundle_version,
                teacher=verdict.teacher,
                reference=asked.reference if asked else None,
            )
        )

    def _decided(self, request: Request, hardness: Hardness, manifest: Manifest, infer_us: float) -> Outcome:
        settings = self._settings
        audit = settings.audit_fraction if request.audit_fraction is None else request.audit_fraction
        with self._lock:
            self._seq += 1
            seq, draw = self._seq, self._rng.random()
        decision = policy.decide(hardness, mode=settings.offload, audit_fraction=audit, draw=draw)
        outcome = Outcome(
            sample_id=new_id(),
            task=self.name,
            seq=seq,
            label=manifest.labels[hardness.prediction],
            prediction=hardness.prediction,
            confidence=hardness.confidence,
            answered_by=AnsweredBy.EDGE,
            edge_prediction=hardness.prediction,
            hardness=hardness.score,
            action=decision.action,
            reason=decision.reason,
            bundle_version=manifest.version,
            reference=request.reference,
            infer_us=infer_us,
            total_us=0.0,
        )
        if decision.action is not Action.OFFLOAD:
            self._ledger.count(self.name, "inferences", "kept")
            return outcome
        return self._offloaded(request, outcome, decision)

    def _offloaded(self, request: Request, outcome: Outcome, decision: Decision) -> Outcome:
        settings = self._settings
        deadline_s = settings.deadline_s if request.deadline_s is None else request.deadline_s
        waits = deadline_s if decision.reason is not Reason.AUDIT else 0.0
        header = SampleHeader(
            sample_id=outcome.sample_id,
            task=self.name,
            seq=outcome.seq,
            bundle_version=outcome.bundle_version,
            prediction=outcome.edge_prediction,
            hardness=outcome.hardness,
            reason=outcome.reason,
            inclusion_probability=decision.inclusion_probability,
            training_use=settings.training_use if request.training_use is None else request.training_use,
        )
        self._sink.expect(outcome.sample_id)
        self._correlation.ask(header, reference=request.reference, deadline_s=waits)
        try:
            self._spool.put(header, request.tensor)
        except StorageFull:
            self._correlation.forget(outcome.sample_id)
            self._ledger.count(self.name, "inferences", "dropped")
            return replace(outcome, action=Action.DROP, reason=Reason.SPOOL_FULL)
        self._ledger.count(
            self.name, "inferences", "offloaded", *(["audits"] if outcome.reason is Reason.AUDIT else [])
        )
        self._wake()
        return self._answered(outcome) if waits > 0 else outcome

    def _answered(self, outcome: Outcome) -> Outcome:
        verdict = self._correlation.wait(outcome.sample_id)
        if verdict is None:
            return replace(outcome, answered_by=AnsweredBy.EDGE_AFTER_DEADLINE)
        return replace(
            outcome,
            prediction=verdict.prediction,
            label=self._label(verdict.prediction),
            confidence=_probability(verdict),
            answered_by=AnsweredBy.CLOUD,
        )

    def _label(self, prediction: int) -> str:
        labels = self._engine.manifest.labels
        return labels[prediction] if prediction < len(labels) else str(prediction)


def _probability(verdict: Verdict) -> float:
    return verdict.probabilities[verdict.prediction] if verdict.prediction < len(verdict.probabilities) else 0.0
