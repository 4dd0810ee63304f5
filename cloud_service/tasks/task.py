"""A task: what a fleet's models take and give, who teaches them, and how a new student is trained.

Importable without torch, so that the service can read and check its tasks before anything heavy is loaded.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from cloud_service.networks.settings import NetworkName, StudentSettings
from cloud_service.preprocessing.settings import Method, PreprocessingSettings
from cloud_service.tasks.compression import DEFAULT_VARIANTS, Variant
from cloud_service.tasks.learning import LearningSettings, TeachSettings
from cloud_service.tasks.profiles import DeviceProfile
from cloud_service.tasks.tracking import TrackingSettings
from cloud_service.teacher.settings import Teachers
from cloud_service.training.triggers import TriggerRules
from shared.errors import SettingsError
from shared.manifest import Dtype, TensorSpec
from shared.messages import Name
from shared.settings import Section

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(gt=0)]
Entry = Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]
ENTRY = re.compile(r"^[\w.]+:\w+$")


class Kind(StrEnum):
    """What a task's models do."""

    CLASSIFICATION = "classification"


class InputKind(StrEnum):
    """What one raw sample is."""

    IMAGE = "image"
    AUDIO = "audio"
    WINDOW = "window"
    TENSOR = "tensor"


class GateRules(Section):
    """What a candidate must hold against the incumbent; every tolerance is a fraction of samples.

    Attributes:
        max_model_bytes: largest model.onnx, in bytes; None: no limit.
        field_tolerance: how far the agreement with the teacher on field samples may fall below the incumbent's.
        base_tolerance: how far the accuracy on the held-out base samples may fall below the incumbent's.
        noise: standard errors by which a fall may exceed its tolerance: a few hundred samples cannot show less.
        class_floor: smallest accuracy on the held-out base samples of each class, less `noise` standard errors; a
            class without a sample breaks it. 0: none.
        class_tolerance: how far a class's accuracy may fall below the incumbent's; None: as far as it likes.
        max_parity_drop: how much of the answers may change between torch's float model and the file that is shipped.
        max_export_error: largest difference of a logit between torch and the exported float graph.
    """

    max_model_bytes: Count | None = None
    field_tolerance: Fraction = 0.0
    base_tolerance: Fraction = 0.01
    noise: Annotated[float, Field(ge=0.0, le=3.0)] = 1.0
    class_floor: Fraction = 0.0
    class_tolerance: Fraction | None = 0.1
    max_parity_drop: Fraction = 0.05
    max_export_error: Positive = 1e-3


class TrainingSettings(Section):
    """How a student is trained. The defaults are those of the digits task; `docs/log.md` has what decided them.

    Attributes:
        steps: optimiser steps.
        batch: samples in a step.
        learning_rate: peak of the one-cycle schedule.
        weight_decay: of AdamW.
        temperature: T of the distillation loss, divides the logits of both sides.
        alpha: weight of T²·KL(teacher ‖ student).
        beta: weight of the cross-entropy with the label (base data) or the verdict's answer (uploads).
        views: augmented copies of each sample whose teacher logits are computed once, the sample itself included.
        upload_share: fraction of a batch drawn from the uploads; the rest replays the base data.
        folds: parts of the uploads; each is scored by a student that never saw it. 0 and 1, or fewer than two uploads
            a part: none; temperature and threshold then come from the held-out base samples.
        calibration_samples: inputs, at most, that set the quantization ranges.
        agreement_goal: share of final answers (own or the verdict) that should equal the teacher's.
        offload_floor: smallest expected fraction of samples offloaded as hard, where the goal would do with less.
        offload_budget: largest expected fraction of samples offloaded as hard, whatever the goal says. Expected from
            a few hundred uploads, it has a standard error of 2 points: keep two of them below a limit that must hold.
        golden_samples: inputs recorded for the device's self-test.
        min_samples: older name of `trigger.new_samples`, which wins where both are set.
        keep_samples: the newest uploads that a job trains on, at most.
        seed: of every random choice.
        learning: where a student starts and when it has learnt enough.
        gate: what a candidate must hold.
    """

    steps: Count = 10_000
    batch: Count = 128
    learning_rate: Positive = 1e-2
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-4
    temperature: Positive = 2.0
    alpha: Annotated[float, Field(ge=0.0)] = 1.0
    beta: Annotated[float, Field(ge=0.0)] = 1.0
    views: Annotated[int, Field(gt=0, le=64)] = 24
    upload_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.08
    folds: Annotated[int, Field(ge=0, le=20)] = 4
    calibration_samples: Count = 512
    agreement_goal: Fraction = 0.998
    offload_floor: Fraction = 0.0
    offload_budget: Fraction = 0.09
    golden_samples: Annotated[int, Field(gt=0, le=256)] = 16
    min_samples: Annotated[int, Field(ge=0)] = 0
    keep_samples: Count = 100_000
    seed: Annotated[int, Field(ge=0)] = 0
    learning: LearningSettings = LearningSettings()
    gate: GateRules = GateRules()

    @model_validator(mode="after")
    def _floor_is_below_the_budget(self) -> Self:
        if self.offload_floor > self.offload_budget:
            raise ValueError("offload_floor must not be above offload_budget")
        return self


class TaskDefinition(Section):
    """One task of the fleet.

    Attributes:
        name: as in headers; in cloud.toml it is the name of the table and is left out.
        labels: one for each logit.
        input_shape: of one raw sample, without the batch axis.
        input_dtype: of one raw sample.
        kind: what the models do; classification is all there is.
        input_kind: `image`: [height, width] or [height, width, channels]; `audio`: [time] or [time, 1]; `window`: of
            sensor values, [time] or [time, channels]; `tensor`: anything.
        input_rate_hz: values of audio or a window in a second.
        preprocessing: what the student does first; None: uint8 is scaled from 0..255, anything else standardised on the
            base data. A `module:function` student does its own.
        teacher: an ONNX file, a table, or an array of tables for an ensemble; see docs/teachers.md.
        base_data: npz with x, y (the replay set) and x_eval, y_eval (held out of training, for the gate).
        student: a network's name or a table, see `StudentSettings`. `module:function` is called with this definition;
            gives an `nn.Module` whose forward takes raw samples [N, *input_shape] and returns (logits [N, C], embedding
            [N, E]).
        augment: `module:function`, called with (samples as float32 [N, *input_shape], torch.Generator), gives as many
            changed samples in the sensor's range; None: every view is the sample itself.
        training: how students are trained.
        compression: the variants that a run makes of its student; the first is the run's own candidate.
        teach: how a teacher is trained on the base data, when it is asked for; None: there is none to train.
        trigger: when a training job starts by itself.
        profiles: by name, the kinds of devices that run the task; none: no limit beside the gate's.
        tracking: where finished runs are noted in MLflow; None: nowhere.
    """

    name: Name
    labels: Annotated[tuple[str, ...], Field(min_length=2)]
    input_shape: Annotated[tuple[Count, ...], Field(min_length=1, max_length=7)]
    input_dtype: Dtype
    kind: Kind = Kind.CLASSIFICATION
    input_kind: InputKind = InputKind.TENSOR
    input_rate_hz: Positive | None = None
    preprocessing: PreprocessingSettings | None = None
    teacher: Teachers
    base_data: Path
    student: NetworkName | StudentSettings = "cloud_service.tasks.networks:TinyMlp"
    augment: Entry | None = None
    training: TrainingSettings = TrainingSettings()
    compression: Annotated[tuple[Variant, ...], Field(min_length=1, max_length=16)] = DEFAULT_VARIANTS
    teach: TeachSettings | None = None
    trigger: TriggerRules = TriggerRules()
    profiles: dict[Name, DeviceProfile] = Field(default_factory=dict)
    tracking: TrackingSettings | None = None

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must differ from each other")
        return self

    @model_validator(mode="after")
    def _variants_differ(self) -> Self:
        names = [variant.name for variant in self.compression]
        if len(set(names)) != len(names):
            raise ValueError(f"compression: each variant needs a name of its own, not {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _input_is_possible(self) -> Self:
        axes = len(self.input_shape)
        limits = {InputKind.IMAGE: (2, 3), InputKind.AUDIO: (1, 2), InputKind.WINDOW: (1, 2), InputKind.TENSOR: (1, 7)}
        low, high = limits[self.input_kind]
        if not low <= axes <= high:
            raise ValueError(f"input_kind = {self.input_kind.value!r} takes {low} or {high} axes, not {axes}")
        if self.input_kind is InputKind.AUDIO and axes == 2 and self.input_shape[1] != 1:
            raise ValueError("input_kind = 'audio' takes one channel: make input_shape [time] or [time, 1]")
        if self.input_kind is InputKind.AUDIO and self.input_rate_hz is None:
            raise ValueError("input_kind = 'audio' needs input_rate_hz, such as input_rate_hz = 16000")
        return self

    @model_validator(mode="after")
    def _preprocessing_is_possible(self) -> Self:
        asked = self.preprocessing
        if asked is None:
            return self
        if not self.network.network.startswith(("edgeloop:", "timm:", "torchvision:")):
            raise ValueError(f"preprocessing: {self.network.network} does its own: leave it out, or name a network")
        if asked.method is not Method.LOG_MEL:
            return self
        if self.input_kind is not InputKind.AUDIO or self.input_rate_hz is None:
            raise ValueError('preprocessing: log-mel takes sound: set input_kind = "audio"')
        window = round(asked.window_ms * self.input_rate_hz / 1000.0)
        if window > self.input_shape[0] or round(asked.hop_ms * self.input_rate_hz / 1000.0) < 1:
            raise ValueError(
                f"preprocessing: a window of {window} values does not fit a sound of {self.input_shape[0]}"
            )
        if asked.high_hz is not None and asked.high_hz > self.input_rate_hz / 2.0:
            raise ValueError(f"preprocessing: high_hz is above half of input_rate_hz, {self.input_rate_hz / 2.0:g}")
        return self

    @property
    def network(self) -> StudentSettings:
        """The student as a table."""
        return self.student if isinstance(self.student, StudentSettings) else StudentSettings(network=self.student)

    def below(self, folder: Path) -> Self:
        """The same task, its relative paths below `folder`."""
        changed: dict[str, Any] = {"teacher": tuple(teacher.below(folder) for teacher in self.teacher)}
        if not ENTRY.match(str(self.base_data)):
            changed["base_data"] = folder / self.base_data
        if isinstance(self.student, StudentSettings) and self.student.weights is not None:
            changed["student"] = self.student.model_copy(update={"weights": folder / self.student.weights})
        if self.teach is not None and self.teach.weights is not None:
            changed["teach"] = self.teach.model_copy(update={"weights": folder / self.teach.weights})
        return self.model_copy(update=changed)

    @property
    def input(self) -> TensorSpec:
        """The raw sample as the manifest declares it."""
        return TensorSpec(shape=self.input_shape, dtype=self.input_dtype)


def load_entry(entry: str, *, setting: str) -> Callable[..., Any]:
    """The object that `module:function` names; `setting` is what the error calls it.

    Raises:
        SettingsError: no such module, or nothing callable of that name in it.
    """
    module_name, _, name = entry.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), name, None)
    except ImportError as err:
        raise SettingsError(
            f"{setting} = {entry!r}: cannot import {module_name} ({err}): correct it or install it"
        ) from err
    if not callable(found):
        raise SettingsError(f"{setting} = {entry!r}: {module_name} has nothing callable named {name}")
    return found  # type: ignore[no-any-return]
