"""A bundle's manifest: what the model takes and gives, how sure it must be, and how a device proves it works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from shared.codec import Array
from shared.deferral import check_names
from shared.errors import BundleError, SampleError
from shared.messages import Name, Version
from shared.uncertainty import Score

Dtype = Literal["uint8", "int8", "uint16", "int16", "int32", "float16", "float32"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TensorSpec(_Part):
    """One sample's raw tensor, as the sensor gives it; `shape` is without the batch axis."""

    shape: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1, max_length=7)]
    dtype: Dtype

    def check(self, tensor: Array) -> None:
        """Hold one sample against the declaration.

        Raises:
            SampleError: another shape or dtype.
        """
        if tensor.shape != self.shape or tensor.dtype != np.dtype(self.dtype):
            raise SampleError(
                f"a sample of shape {list(tensor.shape)} and dtype {tensor.dtype}; "
                f"the task takes {list(self.shape)} and {self.dtype}"
            )


class Outputs(_Part):
    """Names of the graph's outputs: `logits` float32 [N, C]; `embedding` float32 [N, E], where there is one."""

    logits: str = "logits"
    embedding: str | None = None


class GoldenCheck(_Part):
    """How close a device must come to the recorded outputs.

    int8 kernels differ between processors (0.270 against 0.276 was seen between x86 and Arm), so the comparison is of
    probabilities, within a tolerance, and of the answers.

    Attributes:
        tolerance: largest allowed difference of a probability.
        min_agreement: smallest allowed fraction of equal answers.
    """

    tolerance: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
    min_agreement: Annotated[float, Field(ge=0.0, le=1.0)] = 0.9


class Deferral(_Part):
    """A learned score: the probability that the teacher would answer otherwise, by logistic regression.

    score = 1 / (1 + exp(−(intercept + Σ coefficients[name]·feature[name]))), over the features of `shared.deferral`.
    It pays on a shifted field with 100 or more teacher-labelled samples and can harm in domain, so a bundle carries one
    only where cross-validation says so.

    Attributes:
        coefficients: by the feature's name; a feature that is not named weighs nothing.
        classes: added for the predicted class, one a label; empty: none.
    """

    intercept: float
    coefficients: dict[str, float] = Field(default_factory=dict)
    classes: tuple[float, ...] = ()

    @field_validator("coefficients")
    @classmethod
    def _features_exist(cls, coefficients: dict[str, float]) -> dict[str, float]:
        check_names(coefficients)
        return coefficients


class ScoreSpread(_Part):
    """The scores seen at calibration, as log-odds for scores in [0, 1]: what a controller's steps and limits are of."""

    mean: float
    deviation: Annotated[float, Field(gt=0.0)]
    low: float
    high: float


class FileEntry(_Part):
    """A file of the bundle."""

    sha256: Sha256
    size_bytes: Annotated[int, Field(gt=0)]


class Manifest(_Part):
    """Rides in the bundle as `manifest.json`.

    Attributes:
        temperature: divides the logits before every score.
        threshold: a sample is hard when its score is at or above this; None: never by score (1.0 still is for NaN).
        spread: of the scores at calibration; None: the device finds out.
        deferral: the coefficients of the score `deferral`, where that is the manifest's score.
        parent: the version it was trained from.
        lineage: where it comes from: data hash, settings, seed, library versions.
        metrics: what was measured before it was shipped.
    """

    schema_version: Literal[1] = 1
    task: Name
    version: Version
    created_at: str = ""
    labels: Annotated[tuple[str, ...], Field(min_length=1, max_length=100_000)]
    input: TensorSpec
    outputs: Outputs = Outputs()
    score: Score = Score.MAX_PROBABILITY
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    threshold: float | None = None
    spread: ScoreSpread | None = None
    deferral: Deferral | None = None
    golden: GoldenCheck = GoldenCheck()
    files: dict[str, FileEntry] = Field(default_factory=dict)
    parent: Version | None = None
    lineage: dict[str, JsonValue] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _labels_differ(self) -> Manifest:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must differ from each other")
        return self

    @model_validator(mode="after")
    def _deferral_fits(self) -> Manifest:
        if (self.score is Score.DEFERRAL) != (self.deferral is not None):
            raise ValueError("the score 'deferral' and the table 'deferral' come together or not at all")
        if self.deferral is not None and len(self.deferral.classes) not in {0, len(self.labels)}:
            raise ValueError(f"deferral.classes needs one number for each of the {len(self.labels)} labels, or none")
        return self


def parse(text: str | bytes) -> Manifest:
    """A manifest from its JSON.

    Raises:
        BundleError: not JSON, a newer schema, or a field that is missing, wrong or unknown.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise BundleError(f"manifest.json is not JSON: {err}") from err
    if isinstance(value, dict) and value.get("schema_version", 1) != 1:
        raise BundleError(f"manifest.json has schema version {value['schema_version']}; this release speaks 1")
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as err:
        first = err.errors()[0]
        raise BundleError(f"manifest.json: {'.'.join(map(str, first['loc']))}: {first['msg']}") from err


def dump(manifest: Manifest) -> bytes:
    """The manifest as JSON, keys in a fixed order, so that equal manifests are equal bytes."""
    return json.dumps(manifest.model_dump(mode="json"), indent=2, sort_keys=True).encode() + b"\n"


def load(path: Path) -> Manifest:
    """The manifest in a file; raises `BundleError` like `parse`, also when the file is missing."""
    try:
        return parse(path.read_bytes())
    except OSError as err:
        raise BundleError(f"no readable manifest at {path}: {err.strerror}") from err
