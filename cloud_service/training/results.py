"""What each stage of a training run leaves behind, as values that are written to its file."""

from __future__ import annotations

from dataclasses import dataclass

from cloud_service.training.request import ModelMetrics


@dataclass(frozen=True, slots=True)
class Distilled:
    """What training came to: how many uploads the final student learnt from."""

    uploads: int


@dataclass(frozen=True, slots=True)
class Quantized:
    """Sizes and fidelity of the int8 file; see `gate.Numbers`."""

    model_bytes: int
    export_error: float
    parity_drop: float


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The numbers of both models; the errors are as in `gate.Numbers`."""

    before: ModelMetrics | None
    after: ModelMetrics
    golden_error: float
    base_error: float = 0.0
    field_error: float = 0.0


@dataclass(frozen=True, slots=True)
class Packed:
    """The identity of candidate.bundle."""

    sha256: str
    size_bytes: int
