"""How a student starts and when it has learnt enough, and how a teacher is taught; torch-free, read with the task."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from cloud_service.teacher.settings import Positive
from shared.settings import Section

NETWORK = r"^([\w.]+:\w+|edgeloop:[\w-]+|timm:.+|torchvision:\w+)$"


class Start(StrEnum):
    """Where a student's training begins."""

    SCRATCH = "scratch"
    INCUMBENT = "incumbent"


class LearningSettings(Section):
    """What distillation may do beside the plain course of steps. The defaults change nothing of it.

    Attributes:
        start: `scratch`, or `incumbent`: from the float weights of the model that the fleet runs, where they are known
            and fit (`incumbent.pt` in the run's folder); the update to devices is then smaller. Where they are not, the
            run says so and starts from scratch.
        feature_weight: γ, weight of 1 − cos between the student's embedding, mapped linearly, and the teacher's, which
            must give one; 0: off.
        patience: stop after so many checks, each a twentieth of the steps, without a better agreement with the teacher
            on held-out samples, and keep the best student; 0: take all steps. A tenth of the base data, and of the
            uploads that a student may see, is held out for it.
        fine_tune_rate: peak learning rate while a pruned student is trained further, as a share of `learning_rate`.
        quantized_rate: the same while it is trained with quantization: lower, since batch normalisation is folded.
    """

    start: Start = Start.SCRATCH
    feature_weight: Annotated[float, Field(ge=0.0)] = 0.0
    patience: Annotated[int, Field(ge=0, le=20)] = 0
    fine_tune_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 0.3
    quantized_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 0.03


class TeachSettings(Section):
    """A teacher to be trained on the base data's labels: `edgeloop distill run --local FILE --stage teach --out DIR`.

    Attributes:
        network: `module:function`, called with the task's definition, `edgeloop:NAME`, `timm:NAME` or
            `torchvision:NAME`.
        weights: where to begin: a saved state_dict or `.safetensors`. What does not fit, such as the last layer over
            other labels, begins anew, and the run says what. None: from scratch.
        steps: optimiser steps, at most.
        batch: samples in a step.
        learning_rate: peak of the one-cycle schedule.
        body_rate: learning rate of what came from `weights`, as a share of the rest's; 0: it stays as it came.
        weight_decay: of AdamW.
        smoothing: of the labels (Szegedy et al. 2016), in 0..1.
        held_out: share of the base data, by class, that decides which weights are kept.
        patience: stop after so many checks, each a twentieth of the steps, without a better accuracy on that share;
            0: take all steps. The best weights are kept either way.
        width: channels of each layer as a share of the network's own; of edgeloop's alone.
        picture_max: largest value of a raw picture; of timm and torchvision alone.
        picture_size: side in pixels to which pictures are resized; None: as they come; of timm and torchvision alone.
    """

    network: Annotated[str, Field(pattern=NETWORK)]
    weights: Path | None = None
    steps: Annotated[int, Field(gt=0)] = 2_000
    batch: Annotated[int, Field(gt=1)] = 64
    learning_rate: Positive = 3e-3
    body_rate: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-2
    smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    held_out: Annotated[float, Field(gt=0.0, le=0.5)] = 0.1
    patience: Annotated[int, Field(ge=0, le=20)] = 0
    width: Annotated[float, Field(gt=0.0, le=8.0)] = 1.0
    picture_max: Positive = 255.0
    picture_size: Annotated[int, Field(ge=8, le=4096)] | None = None

    @model_validator(mode="after")
    def _width_is_of_our_own(self) -> Self:
        if self.width != 1.0 and not self.network.startswith("edgeloop:"):
            raise ValueError(f"width: {self.network} is as wide as it is: only edgeloop:NAME has a width")
        return self
