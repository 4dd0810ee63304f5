"""The stage bundle: a variant's model, manifest and golden samples as one file."""

from __future__ import annotations

import numpy as np

from cloud_service.training import evaluate, quantize
from cloud_service.training.calibrate import Calibration
from cloud_service.training.compressing import MODEL
from cloud_service.training.request import CANDIDATE
from cloud_service.training.results import Evaluated, Packed
from cloud_service.training.run import Run
from cloud_service.training.variants import VariantRun
from shared import bundle
from shared.manifest import Manifest, Outputs


def pack(this: VariantRun, calibrated: Calibration, evaluated: Evaluated) -> Packed:
    """Write candidate.bundle; the same run on the same machine gives the same bytes, so no latency is in it."""
    run, after = this.run, evaluated.after
    metrics = {
        "base_accuracy": after.base_accuracy,
        "calibration_error": after.calibration_error,
        "expected_agreement": calibrated.agreement,
        "expected_offload_rate": calibrated.offload_rate,
    }
    if after.field_agreement is not None:
        metrics["field_agreement"] = after.field_agreement
    description = Manifest(
        task=run.task.name,
        version=this.version,
        created_at=run.created_at,
        labels=run.task.labels,
        input=run.task.input,
        outputs=Outputs(logits=quantize.LOGITS, embedding=quantize.EMBEDDING),
        score=calibrated.score,
        temperature=calibrated.temperature,
        threshold=calibrated.threshold,
        spread=calibrated.spread,
        deferral=calibrated.deferral,
        parent=run.incumbent.version if run.incumbent else None,
        lineage=this.lineage,
        metrics=metrics,
    )
    model = this.file(MODEL).read_bytes()
    inputs = golden_inputs(run)
    golden = bundle.Golden(inputs=inputs, logits=evaluate.open_runner(model)(inputs))
    info = bundle.pack(this.file(CANDIDATE), model=model, description=description, golden=golden)
    return Packed(info.sha256, info.size_bytes)


def golden_inputs(run: Run) -> evaluate.Array:
    """Held-out base samples: what a device sent stays out of the bundles that others get."""
    rng = np.random.default_rng(run.task.training.seed)
    chosen = rng.permutation(len(run.base.x_eval))[: run.task.training.golden_samples]
    return run.base.x_eval[chosen]
