"""A run's report, put together from what its stages left."""

from __future__ import annotations

from cloud_service.training.calibrate import Calibration
from cloud_service.training.gate import GateDecision
from cloud_service.training.quantized import Quantized
from cloud_service.training.request import CANDIDATE, TrainingReport, VariantReport
from cloud_service.training.results import Distilled, Evaluated, Packed, Pruned, read_result, read_seconds
from cloud_service.training.run import Run
from cloud_service.training.variants import VariantRun, family


def make_report(this: Run) -> TrainingReport:
    """The report of a run whose stages are all done."""
    first, *others = family(this)
    distilled = read_result(this.out, "distill", Distilled)
    calibrated, evaluated = first.result("calibrate", Calibration), first.result("evaluate", Evaluated)
    decision, packed = first.result("gate", GateDecision), first.result("bundle", Packed)
    before, after = evaluated.before, evaluated.after
    return TrainingReport(
        task=this.task.name,
        version=this.version,
        parent=this.incumbent.version if this.incumbent else None,
        passed=decision.passed,
        reasons=decision.reasons,
        before=before,
        after=after,
        latency_ratio=evaluated.latency.ratio if evaluated.latency else None,
        temperature=calibrated.temperature,
        threshold=calibrated.threshold,
        expected_agreement=calibrated.agreement,
        expected_offload_rate=calibrated.offload_rate,
        goal_met=calibrated.goal_met,
        goal_would_need=calibrated.goal_would_need,
        samples=len(this.samples),
        bundle_sha256=packed.sha256,
        bundle_bytes=packed.size_bytes,
        stage_seconds=read_seconds(this.out),
        lineage=first.lineage,
        calibration=calibrated,
        classes=evaluated.classes,
        latency=evaluated.latency,
        memory_bytes=evaluated.memory_bytes,
        profiles=decision.profiles,
        batch=distilled.batch,
        steps=distilled.steps,
        quantized=first.result("quantize", Quantized),
        variants=tuple(_of_variant(variant) for variant in others),
    )


def _of_variant(this: VariantRun) -> VariantReport:
    calibrated, evaluated = this.result("calibrate", Calibration), this.result("evaluate", Evaluated)
    decision, packed = this.result("gate", GateDecision), this.result("bundle", Packed)
    pruned = this.result("prune", Pruned) if this.variant.prune else None
    return VariantReport(
        name=this.variant.name,
        version=this.version,
        bundle=this.file(CANDIDATE).name,
        passed=decision.passed,
        reasons=decision.reasons,
        after=evaluated.after,
        latency_ratio=evaluated.latency.ratio if evaluated.latency else None,
        profiles=decision.profiles,
        threshold=calibrated.threshold,
        expected_offload_rate=calibrated.offload_rate,
        quantized=this.result("quantize", Quantized),
        macs_left=pruned.macs_after / pruned.macs_before if pruned else None,
        bundle_sha256=packed.sha256,
        bundle_bytes=packed.size_bytes,
    )
