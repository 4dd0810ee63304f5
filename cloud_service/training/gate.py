"""What a candidate must hold before any device sees it: a pure decision over numbers.

All of them are of this processor. int8 kernels differ between processors, so a device may answer a few samples
otherwise: the tolerances allow for it, no rule is finer than that, and each device holds the golden samples against its
own kernels before it swaps (docs/execution.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cloud_service.tasks.task import GateRules


@dataclass(frozen=True, slots=True)
class Measured:
    """A model's numbers, each a fraction of samples.

    Attributes:
        base_accuracy: on the held-out base samples.
        field_agreement: with the verdicts on recent uploads, weighted to the stream; None without uploads. Of a
            candidate out of fold: each upload is judged by a student that did not train on it.
    """

    base_accuracy: float
    field_agreement: float | None


@dataclass(frozen=True, slots=True)
class Numbers:
    """Everything the decision rests on.

    Attributes:
        candidate: the new model's numbers.
        incumbent: the present model's, on the same samples; None for the first model of a task.
        base_error: standard error of the difference of their base accuracies.
        field_error: the same of their field agreements.
        model_bytes: size of the candidate's model.onnx.
        export_error: largest difference of a logit between torch and the exported float graph.
        parity_drop: fraction of held-out base samples whose answer differs between torch and int8.
        golden_error: largest difference of a probability when the recorded samples are run again one by one.
        golden_tolerance: largest the device will accept.
    """

    candidate: Measured
    incumbent: Measured | None
    base_error: float
    field_error: float
    model_bytes: int
    export_error: float
    parity_drop: float
    golden_error: float
    golden_tolerance: float


@dataclass(frozen=True, slots=True)
class GateDecision:
    """Whether the candidate passed; `reasons` are the rules it broke, in words, empty when it passed."""

    passed: bool
    reasons: tuple[str, ...]


def decide(numbers: Numbers, rules: GateRules) -> GateDecision:
    """Hold the candidate against every rule; a number that is not finite breaks its rule."""
    reasons = [*_against_incumbent(numbers, rules), *_by_itself(numbers, rules)]
    return GateDecision(passed=not reasons, reasons=tuple(reasons))


def _against_incumbent(numbers: Numbers, rules: GateRules) -> list[str]:
    if numbers.incumbent is None:
        return []
    new, old = numbers.candidate, numbers.incumbent
    compared = [
        ("accuracy on held-out base samples", new.base_accuracy, old.base_accuracy, rules.base_tolerance,
         numbers.base_error),
    ]  # fmt: skip
    if new.field_agreement is not None and old.field_agreement is not None:
        compared.append(
            ("agreement with the teacher on field samples", new.field_agreement, old.field_agreement,
             rules.field_tolerance, numbers.field_error)
        )  # fmt: skip
    return [
        f"{what} fell from {before:.4f} to {after:.4f}; {tolerance:.4f} and {rules.noise:g} standard errors "
        f"({error:.4f}) are tolerated"
        for what, after, before, tolerance, error in compared
        if not after >= before - tolerance - rules.noise * error - 1e-9
    ]


def _by_itself(numbers: Numbers, rules: GateRules) -> list[str]:
    limits = [
        ("model.onnx has {:g} bytes; {:g} are allowed", numbers.model_bytes, rules.max_model_bytes or math.inf),
        (
            "the exported graph's logits differ from torch's by {:.2g}; {:.2g} is allowed",
            numbers.export_error,
            rules.max_export_error,
        ),
        ("int8 changes {:.4f} of the answers; {:.4f} is allowed", numbers.parity_drop, rules.max_parity_drop),
        (
            "golden samples run again differ by {:.3g} in probability; {:.3g} is allowed",
            numbers.golden_error,
            numbers.golden_tolerance,
        ),
    ]  # fmt: skip
    return [text.format(value, limit) for text, value, limit in limits if not value <= limit]
