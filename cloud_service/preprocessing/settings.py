"""What a student does with raw samples before its first layer; torch-free, read with the task."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from shared.settings import Section

Positive = Annotated[float, Field(gt=0.0)]


class Method(StrEnum):
    """How raw values become what a network learns from."""

    SCALE = "scale"
    STANDARDISE = "standardise"
    LOG_MEL = "log-mel"


class PreprocessingSettings(Section):
    """Runs inside the exported graph, so that a device feeds raw values and both sides compute the same.

    Attributes:
        method: `scale`: `low`..`high` becomes -1..1; `standardise`: (x - mean) / std for each channel, the last axis;
            `log-mel`: a sound becomes the logarithm of its energy in mel bands, [frames, mels].
        low, high: of `scale`: the sensor's range.
        mean, std: of `standardise`, one for each channel; left out: those of the base data's replay set.
        full_scale: of `log-mel`: the raw value that is 1.0, such as 32768 for 16-bit sound.
        window_ms, hop_ms: of `log-mel`: length of a frame, and from one frame's start to the next.
        mels: of `log-mel`: bands.
        low_hz, high_hz: of `log-mel`: edges of the lowest and the highest band; high_hz left out: half the rate.
        floor: of `log-mel`: added to the energy before the logarithm.
    """

    method: Method
    low: float = 0.0
    high: float = 255.0
    mean: tuple[float, ...] | None = None
    std: tuple[Positive, ...] | None = None
    full_scale: Positive = 32768.0
    window_ms: Positive = 32.0
    hop_ms: Positive = 16.0
    mels: Annotated[int, Field(gt=1, le=256)] = 40
    low_hz: Annotated[float, Field(ge=0.0)] = 20.0
    high_hz: Positive | None = None
    floor: Positive = 1e-6

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.low >= self.high:
            raise ValueError("low must be below high")
        if (self.mean is None) != (self.std is None):
            raise ValueError("give mean and std, or neither: they are then fitted on the base data")
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values and std {len(self.std)}: one for each channel")
        if self.high_hz is not None and self.low_hz >= self.high_hz:
            raise ValueError("low_hz must be below high_hz")
        return self
