"""The preprocessing that a task asks for, as the first part of its student."""

from __future__ import annotations

from functools import lru_cache

from torch import nn

from cloud_service.preprocessing.log_mel import LogMel
from cloud_service.preprocessing.scaling import Floats, Scale, Standardise, channel_statistics
from cloud_service.preprocessing.settings import Method
from cloud_service.tasks.data import load_base
from cloud_service.tasks.task import TaskDefinition
from shared.errors import SettingsError


def open_preprocessing(task: TaskDefinition) -> nn.Module:
    """Raw samples [N, *input_shape] to float32: of the same shape, or [N, frames, mels] for `log-mel`.

    Without settings: whole numbers are scaled from the range of their dtype, floats standardised on the base data.

    Raises:
        SettingsError: the settings do not fit the task's input, or its base data cannot be read.
    """
    asked = task.preprocessing
    if asked is None:
        return Scale(low=0.0, high=255.0) if task.input_dtype == "uint8" else _standardise(task)
    match asked.method:
        case Method.SCALE:
            return Scale(low=asked.low, high=asked.high)
        case Method.STANDARDISE:
            return _standardise(task)
        case Method.LOG_MEL:
            return _log_mel(task)


def _standardise(task: TaskDefinition) -> Standardise:
    channels = task.input_shape[-1] if len(task.input_shape) > 1 else 1
    if task.input_kind == "image" and len(task.input_shape) == 2:
        channels = 1
    asked = task.preprocessing
    if asked is None or asked.mean is None or asked.std is None:
        mean, std = _fitted(task.model_dump_json(), channels)
        return Standardise(mean=mean.tolist(), std=std.tolist())
    if len(asked.mean) not in {1, channels}:
        raise SettingsError(
            f"task {task.name}: preprocessing.mean has {len(asked.mean)} values; the samples have {channels} channels"
        )
    return Standardise(mean=asked.mean, std=asked.std)


@lru_cache(maxsize=8)
def _fitted(task: str, channels: int) -> tuple[Floats, Floats]:
    """A run opens its student many times: the base data is read once."""
    return channel_statistics(load_base(TaskDefinition.model_validate_json(task)).x, channels=channels)


def _log_mel(task: TaskDefinition) -> LogMel:
    asked, rate = task.preprocessing, task.input_rate_hz
    assert asked is not None
    assert rate is not None
    try:
        return LogMel(
            rate_hz=rate,
            window=round(asked.window_ms * rate / 1000.0),
            hop=round(asked.hop_ms * rate / 1000.0),
            mels=asked.mels,
            low_hz=asked.low_hz,
            high_hz=asked.high_hz or rate / 2.0,
            full_scale=asked.full_scale,
            floor=asked.floor,
        )
    except ValueError as err:
        raise SettingsError(f"task {task.name}: preprocessing: {err}") from err
