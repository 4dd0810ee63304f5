"""The hot path of one task: engine → judge (hardness, policy) → departure → outcome.

Synchronous and in the caller's thread; nothing here waits for the network (unless the caller gave a deadline) or for
the disk's flush.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from time import perf_counter_ns
from uuid import UUID

from edge_agent.deciding.policy import Decision
from edge_agent.departure import Departure
from edge_agent.execution.engine import Engine
from edge_agent.judge import Judge, Judgement
from edge_agent.ledger import Ledger
from edge_agent.outcomes import AnsweredBy, Correction, Outcome
from edge_agent.request import Request
from edge_agent.settings import TaskSettings
from edge_agent.sinks.order import InOrder
from edge_agent.spool.spool import Spool
from edge_agent.uplink.correlation import Correlation
from shared.ids import new_id
from shared.manifest import Manifest
from shared.messages import Action, Reason, SampleHeader, Verdict

_SEQ_BITS = 32
_MAX_TOLD = 10_000
_COUNTED_AS = {
    Action.KEEP: "kept",
    Action.OFFLOAD: "offloaded",
    Action.DEFER: "deferred",
    Action.DROP: "dropped",
}
_COUNTED_TOO = {
    Reason.AUDIT: ("audits",),
    Reason.DUPLICATE: ("duplicates",),
    Reason.WITHHELD: ("withheld",),
    Reason.BUDGET: ("over_budget",),
}


@dataclass(frozen=True, slots=True)
class _Sample:
    """A sample that was judged; `manifest` is of the model that answered."""

    request: Request
    judgement: Judgement
    manifest: Manifest
    sample_id: UUID
    seq: int


class Pipeline:
    """One task's way from a sample to an outcome. Thread-safe."""

    def __init__(
        self,
        name: str,
        settings: TaskSettings,
        engine: Engine,
        *,
        judge: Judge,
        departure: Departure,
        spool: Spool,
        ledger: Ledger,
        correlation: Correlation,
        sink: InOrder,
    ) -> None:
        self.name = name
        self._settings = settings
        self._engine = engine
        self._stand_in: Engine | None = None
        self._judge, self._departure = judge, departure
        self._spool, self._ledger, self._correlation, self._sink = spool, ledger, correlation, sink
        self._lock, self._changing = threading.Lock(), threading.Lock()
        # Whose verdicts were told while the disk did not let go of them: they come again, and are not told again.
        self._told: OrderedDict[UUID, None] = OrderedDict()
        # Unique and rising over restarts without a clock: the count of starts, then the count of samples.
        self._seq = ledger.starts << _SEQ_BITS

    @property
    def engine(self) -> Engine:
        """The task's engine; under pressure a lighter one may stand in for it."""
        return self._engine

    @property
    def stand_in(self) -> Engine | None:
        """What answers in the engine's place now."""
        return self._stand_in

    def swap(self, engine: Engine) -> None:
        """Take a warm engine into use between two samples; one under way ends on the old one."""
        with self._changing:
            self._engine = engine
            if self._stand_in is None:
                self._judge.met(engine.manifest)

    def let_stand_in(self, engine: Engine | None) -> None:
        """Let a lighter engine answer, until this is called with None."""
        with self._changing:
            self._stand_in = engine
            self._judge.met((engine or self._engine).manifest)

    def infer(self, request: Request) -> Outcome:
        """Answer one sample and offload it if it is hard.

        Raises:
            SampleError: the tensor is not of the task's shape and dtype.
            ModelUnusable: the model failed while running.
        """
        started_ns = perf_counter_ns()
        engine = self._stand_in or self._engine
        try:
            if self._judge.wants_embedding:
                logits, embedding = engine.run_both(request.tensor)
            else:
                logits, embedding = engine.run(request.tensor), None
        except Exception:
            self._ledger.count(self.name, "inferences", "errors")
            raise
        infer_us = (perf_counter_ns() - started_ns) / 1000
        wait_s = self._settings.deadline_s if request.deadline_s is None else request.deadline_s
        judgement = self._judge.judge(request, logits, embedding, manifest=engine.manifest, waited_for=wait_s > 0)
        sample_id, seq = new_id(), self._next_seq()
        decision, answered_by, verdict = judgement.decision, AnsweredBy.EDGE, None
        if decision.goes_up:
            sample = _Sample(request, judgement, engine.manifest, sample_id, seq)
            until_s = started_ns / 1e9 + wait_s if wait_s > 0 else None
            decision, answered_by, verdict = self._go_up(sample, until_s)
        self._ledger.count(self.name, "inferences", *_counts(decision))
        hardness = judgement.hardness
        prediction = hardness.prediction if verdict is None else verdict.prediction
        outcome = Outcome(
            sample_id=sample_id,
            task=self.name,
            seq=seq,
            label=_label(engine.manifest, prediction),
            prediction=prediction,
            confidence=hardness.confidence if verdict is None else verdict.confidence,
            answered_by=answered_by,
            edge_prediction=hardness.prediction,
            hardness=hardness.score,
            action=decision.action,
            reason=decision.reason,
            bundle_version=engine.manifest.version,
            reference=request.reference,
            infer_us=infer_us,
            total_us=(perf_counter_ns() - started_ns) / 1000,
        )
        self._sink.outcome(outcome)
        return outcome

    def take_verdict(self, verdict: Verdict) -> None:
        """A verdict came: it answers whoever waits, or becomes a correction. Repeated ones change nothing."""
        asked = self._correlation.deliver(verdict)
        header = asked.header if asked else self._spool.header(verdict.sample_id)
        gone = self._spool.acknowledge([verdict.sample_id])
        if header is None or verdict.sample_id in self._told:
            return
        if not gone:
            self._told[verdict.sample_id] = None
            while len(self._told) > _MAX_TOLD:
                self._told.popitem(last=False)
        agreed = verdict.prediction == header.prediction
        self._ledger.count(self.name, "verdicts", *(["agreed"] if agreed else []))
        self._judge.judged(header, agreed=agreed)
        if asked is not None and asked.verdict is not None:
            return
        self._sink.correction(
            Correction(
                sample_id=verdict.sample_id,
                task=self.name,
                seq=header.seq,
                label=_label(self._engine.manifest, verdict.prediction),
                prediction=verdict.prediction,
                confidence=verdict.confidence,
                agreed=agreed,
                bundle_version=header.bundle_version,
                teacher=verdict.teacher,
                reference=asked.reference if asked else None,
            )
        )

    def _next_seq(self) -> int:
        with self._lock:
            self._seq += 1
            return self._seq

    def _go_up(self, sample: _Sample, until_s: float | None) -> tuple[Decision, AnsweredBy, Verdict | None]:
        """Spool a sample, and wait for the verdict until then, by `time.perf_counter`; None: nobody waits."""
        header = self._header(sample)
        if header.reason is Reason.AUDIT:
            until_s = None
        label = _label(sample.manifest, header.prediction)
        decision = self._departure.leave(sample.request, header, sample.judgement, label=label, until_s=until_s)
        self._judge.settle(sample.judgement, sent=decision.goes_up, size_bytes=sample.request.tensor.nbytes)
        if not decision.goes_up or until_s is None:
            return decision, AnsweredBy.EDGE, None
        verdict = self._correlation.wait(header.sample_id)
        return decision, AnsweredBy.EDGE_AFTER_DEADLINE if verdict is None else AnsweredBy.CLOUD, verdict

    def _header(self, sample: _Sample) -> SampleHeader:
        training_use, decision = sample.request.training_use, sample.judgement.decision
        return SampleHeader(
            sample_id=sample.sample_id,
            task=self.name,
            seq=sample.seq,
            bundle_version=sample.manifest.version,
            prediction=sample.judgement.hardness.prediction,
            hardness=sample.judgement.hardness.score,
            reason=decision.reason,
            inclusion_probability=decision.inclusion_probability,
            training_use=self._settings.training_use if training_use is None else training_use,
        )


def _counts(decision: Decision) -> tuple[str, ...]:
    """The fields of `TaskCounts` that a decision adds one to."""
    return (_COUNTED_AS[decision.action], *_COUNTED_TOO.get(decision.reason, ()))


def _label(manifest: Manifest, prediction: int) -> str:
    return manifest.labels[prediction] if prediction < len(manifest.labels) else str(prediction)
