"""What a candidate must hold before any device sees it: a pure decision over numbers.

All of them are of this processor. int8 kernels differ between processors, so a device may answer a few samples
otherwise: the tolerances allow for it, no rule is finer than that, and each device holds the golden samples against its
own kernels before it swaps (docs/execution.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cloud_service.tasks.task import GateRules
from cloud_service.training.quantized import Loss


class Limits(Protocol):
    """What a kind of device has room for; None: no limit."""

    @property
    def max_model_bytes(self) -> int | None: ...
    @property
    def max_latency_ratio(self) -> float | None: ...
    @property
    def max_memory_bytes(self) -> int | None: ...


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
class ClassNumbers:
    """One label's held-out base samples.

    Attributes:
        label: its name.
        samples: how many there are.
        candidate: share of them that the candidate answers right; 0 where there is none.
        incumbent: the same of the present model; None for the first model of a task.
        error: standard error of the difference of the two.
    """

    label: str
    samples: int
    candidate: float
    incumbent: float | None = None
    error: float = 0.0


# Fewer held-out samples of a class say nothing of a fall: where all pairs change alike their error is estimated as 0.
_FEW = 10


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
        parity_drop: fraction of held-out base samples whose answer differs between torch and the shipped file.
        golden_error: largest difference of a probability when the recorded samples are run again one by one.
        golden_tolerance: largest the device will accept.
        loss: of int8 against float, on the samples that chose the way to int8; None for other weights.
        max_loss: how large it may be.
        classes: by label, on the held-out base samples.
        latency_ratio: the candidate's time for one sample over the incumbent's, interleaved; None: no incumbent.
        memory_bytes: what a session of the candidate takes; None: this system does not tell.
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
    loss: Loss | None = None
    max_loss: float = 0.0
    classes: tuple[ClassNumbers, ...] = ()
    latency_ratio: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class GateDecision:
    """What the gate says.

    Attributes:
        passed: whether the candidate may be shipped.
        reasons: the rules it broke, in words; empty when it passed.
        profiles: by the name of each device profile, why the candidate does not fit it; empty: it fits.
    """

    passed: bool
    reasons: tuple[str, ...]
    profiles: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def fits(self) -> tuple[str, ...]:
        """The profiles that the candidate fits."""
        return tuple(name for name, reasons in self.profiles.items() if not reasons)


def decide(numbers: Numbers, rules: GateRules, profiles: Mapping[str, Limits] | None = None) -> GateDecision:
    """Hold the candidate against every rule; a number that is not finite breaks its rule.

    Args:
        numbers: what was measured.
        rules: what is asked.
        profiles: the task's kinds of devices by name; a candidate that fits none of them cannot be shipped, one that
            fits some is shipped and says to which.
    """
    fitting = {name: tuple(_over(numbers, limits)) for name, limits in (profiles or {}).items()}
    reasons = [*_against_incumbent(numbers, rules), *_by_itself(numbers, rules), *_too_much(numbers, rules)]
    reasons += _by_class(numbers, rules)
    if fitting and all(fitting.values()):
        reasons += [f"it does not fit the profile {name}: {', '.join(over)}" for name, over in fitting.items()]
    return GateDecision(passed=not reasons, reasons=tuple(reasons), profiles=fitting)


def _over(numbers: Numbers, limits: Limits) -> list[str]:
    """The limits that the candidate is over; what could not be measured is over none, the device measures again."""
    held = [
        ("model.onnx has {:,} bytes of {:,}", numbers.model_bytes, limits.max_model_bytes),
        ("its latency is {:.2f} × the incumbent's, of {:.2f}", numbers.latency_ratio, limits.max_latency_ratio),
        ("its session takes {:,} bytes of {:,}", numbers.memory_bytes, limits.max_memory_bytes),
    ]
    return [
        text.format(value, limit)
        for text, value, limit in held
        if value is not None and limit is not None and not value <= limit
    ]


def _too_much(numbers: Numbers, rules: GateRules) -> list[str]:
    loss = numbers.loss
    if loss is None or loss.share <= numbers.max_loss + rules.noise * loss.error + 1e-9:
        return []
    said = (
        f"int8 loses {loss.share:.4f} of the right answers, whatever was tried; max_loss {numbers.max_loss:.4f} and "
        f"{rules.noise:g} standard errors ({loss.error:.4f}) are allowed: raise quantize.max_loss or max_float_share, "
        "or take another student"
    )
    return [said]


def _by_class(numbers: Numbers, rules: GateRules) -> list[str]:
    return [reason for one in numbers.classes for reason in (_floor(one, rules), _fall(one, rules)) if reason]


def _floor(one: ClassNumbers, rules: GateRules) -> str | None:
    """Against the floor of every class, with the standard error that a share at the floor would have."""
    floor = rules.class_floor
    if floor == 0.0:
        return None
    if one.samples == 0:
        return f"no held-out base sample of the class {one.label} shows whether it reaches the floor of {floor:.4f}"
    error = math.sqrt(floor * (1.0 - floor) / one.samples)
    if one.candidate >= floor - rules.noise * error - 1e-9:
        return None
    return (
        f"accuracy on the class {one.label} is {one.candidate:.4f}; the floor is {floor:.4f}, "
        f"less {rules.noise:g} standard errors ({error:.4f})"
    )


def _fall(one: ClassNumbers, rules: GateRules) -> str | None:
    if one.incumbent is None or rules.class_tolerance is None or one.samples < _FEW:
        return None
    if one.candidate >= one.incumbent - rules.class_tolerance - rules.noise * one.error - 1e-9:
        return None
    return (
        f"accuracy on the class {one.label} fell from {one.incumbent:.4f} to {one.candidate:.4f}; "
        f"{rules.class_tolerance:.4f} and {rules.noise:g} standard errors ({one.error:.4f}) are tolerated"
    )


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
        ("compression changes {:.4f} of the answers; {:.4f} is allowed", numbers.parity_drop, rules.max_parity_drop),
        (
            "golden samples run again differ by {:.3g} in probability; {:.3g} is allowed",
            numbers.golden_error,
            numbers.golden_tolerance,
        ),
    ]  # fmt: skip
    return [text.format(value, limit) for text, value, limit in limits if not value <= limit]
