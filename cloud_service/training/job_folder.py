"""A training job's folder: what is laid into it before the run, and what is read from it afterwards."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from cloud_service.storage.samples import TrainingSet
from cloud_service.training.request import INCUMBENT, REPORT, REQUEST, SAMPLES, TrainingReport, TrainingRequest
from shared import atomic
from shared.errors import BundleError


def lay_out(folder: Path, request: TrainingRequest, exported: TrainingSet | None, incumbent: Path | None) -> None:
    """Put what the run needs into its folder; the request last, as the sign that all is there."""
    folder.mkdir(parents=True, exist_ok=True)
    if exported is not None:
        with atomic.replacing(folder / SAMPLES) as file:
            np.savez(
                file,
                x=exported.x,
                teacher_probs=exported.probabilities,
                weight=exported.weight,
                order=exported.number,
            )
    if incumbent is not None:
        with atomic.replacing(folder / INCUMBENT) as file, incumbent.open("rb") as source:
            shutil.copyfileobj(source, file)
    atomic.write_json(folder / REQUEST, request.model_dump(mode="json"))


def read_report(folder: Path) -> TrainingReport:
    """What the run came to.

    Raises:
        BundleError: the run left no such file.
    """
    try:
        return TrainingReport.model_validate_json((folder / REPORT).read_bytes())
    except (OSError, ValidationError) as err:
        raise BundleError(f"the training run left no readable {REPORT} in {folder}: {err}") from err
