"""What each stage of a training run leaves behind, as values that are written to its file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from cloud_service.training.gate import ClassNumbers
from cloud_service.training.latency import LatencyRatio
from cloud_service.training.request import SECONDS, ModelMetrics
from shared import atomic
from shared.errors import SettingsError

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Distilled:
    """What training came to.

    Attributes:
        uploads: that the final student learnt from.
        batch: samples of a step; half of what was asked for where memory did not suffice.
        steps: taken; fewer than asked for where held-out agreement rose no more.
        held_out_agreement: with the teacher; None where nothing was held out for it.
        from_incumbent: whether the final student began with the incumbent's weights.
    """

    uploads: int
    batch: int = 0
    steps: int = 0
    held_out_agreement: float | None = None
    from_incumbent: bool = False


@dataclass(frozen=True, slots=True)
class Pruned:
    """What pruning left of the final student: multiply-accumulates for one sample, and parameters."""

    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    weights_left: float


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The numbers of both models; the errors are as in `gate.Numbers`.

    Attributes:
        classes: both models on each label's held-out base samples.
        latency: the candidate's time over the incumbent's; None: there is none.
        memory_bytes: what a session of the candidate takes; None: this system does not tell.
    """

    before: ModelMetrics | None
    after: ModelMetrics
    golden_error: float
    base_error: float = 0.0
    field_error: float = 0.0
    classes: tuple[ClassNumbers, ...] = ()
    latency: LatencyRatio | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Packed:
    """The identity of candidate.bundle."""

    sha256: str
    size_bytes: int


def has_result(folder: Path, stage: str) -> bool:
    """Whether a stage was done."""
    return (folder / f"{stage}.json").exists()


def read_result(folder: Path, stage: str, kind: type[_Result]) -> _Result:
    """What a stage left.

    Raises:
        SettingsError: it was not done yet, or by another release.
    """
    file = folder / f"{stage}.json"
    try:
        return TypeAdapter(kind).validate_json(file.read_bytes())
    except FileNotFoundError as err:
        raise SettingsError(f"{folder} has no result of the stage {stage} yet: run it first (--stage)") from err
    except ValidationError as err:
        raise SettingsError(f"{file} was not written by this release: remove it to repeat the stage") from err


def write_result(folder: Path, stage: str, kind: type[_Result], result: _Result, *, seconds: float = 0.0) -> None:
    """Write what a stage left, last, as the sign that it is done; raises `StorageFull` when the disk takes no more."""
    atomic.write_json(folder / f"{stage}{SECONDS}", seconds)
    atomic.write_bytes(folder / f"{stage}.json", TypeAdapter(kind).dump_json(result, indent=2))


def remove_result(folder: Path, stage: str) -> None:
    """Let a stage be done again."""
    atomic.remove(folder / f"{stage}.json")
    atomic.remove(folder / f"{stage}{SECONDS}")


def read_seconds(folder: Path) -> dict[str, float]:
    """How long each stage took, by its name."""
    files = sorted(folder.glob(f"*{SECONDS}"))
    return {file.name.removesuffix(SECONDS): TypeAdapter(float).validate_json(file.read_bytes()) for file in files}
