"""What quantization came to, as plain values: they are written to a run's folder and stand in its report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QuantizedModel:
    """An int8 file and how it came to be.

    Attributes:
        method: minmax, entropy, percentile or qat.
        score: the judge's share of right answers.
        float_score: the same of the float file.
        holds: whether the loss is within `max_loss`.
        float_layers: names of the layers that stayed in float, most sensitive first.
        tried: score by what was tried: a method, or a method and how many layers stayed in float (`minmax-2`).
        kernels: how often each operator stands in the graph as onnxruntime runs it.
        bytes: size of the file.
        reduce_range: whether weights have 7 bits.
    """

    method: str
    score: float
    float_score: float
    holds: bool
    float_layers: tuple[str, ...]
    tried: dict[str, float]
    kernels: dict[str, int]
    bytes: int
    reduce_range: bool


@dataclass(frozen=True, slots=True)
class Loss:
    """Right answers that the shipped file gives fewer than torch's float student, both on the same samples.

    Attributes:
        share: of the samples; negative where it gives more.
        error: standard error of it.
        changed: share of the samples whose answer differs at all.
    """

    share: float
    error: float
    changed: float


@dataclass(frozen=True, slots=True)
class Quantized:
    """Sizes and fidelity of the file that a device loads; see `gate.Numbers`.

    Attributes:
        model_bytes: of model.onnx.
        export_error: largest difference of a logit between torch and the exported float graph.
        parity_drop: fraction of held-out base samples whose answer differs between torch and the shipped file.
        how: which way to int8 was taken, and what was tried; None for other weights.
        chosen_by: what it loses on the samples that chose the way; None for other weights.
        field: what it loses on the uploads, weighted to the stream, against the teacher's answers; None: there are
            none. Both have learnt from these, and what was trained with quantization has learnt more: on new samples
            it loses rather more than less.
    """

    model_bytes: int
    export_error: float
    parity_drop: float
    how: QuantizedModel | None = None
    chosen_by: Loss | None = None
    field: Loss | None = None
