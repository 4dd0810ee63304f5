"""How a student is made small, torch-free, read with the task: variants of one run, pruning, quantization."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from shared.settings import Section

Share = Annotated[float, Field(gt=0.0, le=1.0)]
Count = Annotated[int, Field(gt=0)]


class Method(StrEnum):
    """What pruning takes away."""

    STRUCTURED = "structured"
    UNSTRUCTURED = "unstructured"


class Importance(StrEnum):
    """By what structured pruning ranks the channels of a layer."""

    MAGNITUDE = "magnitude"
    BN_SCALE = "bn-scale"
    TAYLOR = "taylor"


class Weights(StrEnum):
    """How weights are stored and computed with."""

    INT8 = "int8"
    INT4 = "int4"
    FP16 = "fp16"
    FP32 = "fp32"


class Calibration(StrEnum):
    """What sets the range of an activation from the values seen; `auto` tries all three."""

    MINMAX = "minmax"
    ENTROPY = "entropy"
    PERCENTILE = "percentile"
    AUTO = "auto"


class Choice(StrEnum):
    """Whether something is done: by need, never, always."""

    AUTO = "auto"
    NEVER = "never"
    ALWAYS = "always"


class PruneSettings(Section):
    """What is taken away from a student, in rounds with training between them.

    Attributes:
        method: `structured` removes whole channels: smaller and faster everywhere; `unstructured` sets single weights
            to zero: only the compressed download shrinks.
        importance: how structured pruning ranks channels: `magnitude` of all weights that a channel touches, `bn-scale`
            of its batch normalisation, or `taylor`: how much the loss would change, from gradients of some batches.
            Unstructured pruning always goes by magnitude.
        macs_left: share of the multiply-accumulates that structured pruning leaves.
        weights_left: share of the weights that unstructured pruning leaves.
        rounds: steps to the target, with training after each.
        round_to: channels of a layer are kept in multiples of this; onnxruntime computes in blocks of 8, and other
            numbers make the network smaller but hardly faster.
        fine_tune_steps: optimiser steps of training after each round; 0: none.
    """

    method: Method = Method.STRUCTURED
    importance: Importance = Importance.MAGNITUDE
    macs_left: Share = 0.5
    weights_left: Share = 0.25
    rounds: Annotated[int, Field(gt=0, le=50)] = 3
    round_to: Annotated[int, Field(gt=0, le=64)] = 8
    fine_tune_steps: Annotated[int, Field(ge=0)] = 1000


class QuantizeSettings(Section):
    """How int8 is reached and what it may cost. Accuracy is judged in onnxruntime, on the training machine.

    Attributes:
        calibration: how the activations' ranges come from samples; `auto` takes what answers best.
        percentile: of the values that the range holds, in percent, where `calibration` is by percentile.
        reduce_range: weights in 7 bits. Processors with AVX2 and no VNNI add products with 16-bit saturation, and full
            8-bit weights cost them whole points. `always`, because devices are seldom the training machine; `auto`:
            where the training machine's own processor saturates; `never`: 8 bits.
        qat: train with quantization in the loop: `auto`, where quantization after training loses more than `max_loss`;
            `always`: in any case. What answers better is taken.
        qat_steps: optimiser steps of that; the last fifth with the activations' ranges frozen.
        max_loss: share of right answers that quantization may lose against the float network.
        mixed_precision: where the loss is still larger, let the most sensitive layers stay in float, one after another.
        max_float_share: share of the layers, at most, that may stay in float.
    """

    calibration: Calibration = Calibration.AUTO
    percentile: Annotated[float, Field(gt=50.0, le=100.0)] = 99.99
    reduce_range: Choice = Choice.ALWAYS
    qat: Choice = Choice.AUTO
    qat_steps: Count = 1000
    max_loss: Annotated[float, Field(ge=0.0, le=1.0)] = 0.005
    mixed_precision: bool = True
    max_float_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5


class Variant(Section):
    """One of the files that a training run makes of its student, for devices that it suits.

    Attributes:
        name: of the variant, in bundle names and manifests.
        prune: what is taken away first; None: nothing.
        weights: `int8`; `int4`: weights of matrix products in 4 bits, activations in float; `fp16`: stored in half the
            bytes; `fp32`.
        quantize: how int8 is reached; only for `int8`.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")] = "int8"
    prune: PruneSettings | None = None
    weights: Weights = Weights.INT8
    quantize: QuantizeSettings = QuantizeSettings()

    @model_validator(mode="after")
    def _quantize_is_for_int8(self) -> Self:
        if self.weights is not Weights.INT8 and self.quantize != QuantizeSettings():
            raise ValueError(f"quantize is for weights = 'int8'; with {self.weights.value!r} leave it out")
        return self


DEFAULT_VARIANTS = (Variant(),)
