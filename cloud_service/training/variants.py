"""A family of variants from one run: each is pruned, quantized, calibrated, proven and packed by itself.

All of them share what was distilled, take and tell the same, and say in their manifest whose variants they are, so that
a device can have the one that its profile and its power allow: as its bundle, or as the smaller one that answers while
it is under pressure. The first in the settings is the run's own candidate.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import JsonValue

from cloud_service.tasks.compression import Variant
from cloud_service.training.distilling import SCORES, STUDENT
from cloud_service.training.results import read_result
from cloud_service.training.run import Run

_LONGEST_VERSION = 64
# Of a name of their own: the whole students' stay for the variants that are not pruned.
_PRUNED_SCORES = "pruned.npz"
_NUMBERS = re.compile(r"(-\d{1,9}){1,2}$")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Names:
    """What a variant's files and stages are called; the first of a family has the plain names."""

    variant: str
    first: bool

    def file(self, name: str) -> str:
        """`model.onnx`, or `model.NAME.onnx` for all but the first."""
        stem, _, suffix = name.rpartition(".")
        return name if self.first else f"{stem}.{self.variant}.{suffix}"

    def stage(self, name: str) -> str:
        """`prune`, or `prune.NAME` for all but the first."""
        return name if self.first else f"{name}.{self.variant}"


@dataclass(frozen=True, slots=True)
class VariantRun:
    """One variant of a run: what its stages see, and where its files lie.

    Attributes:
        first: whether it is the run's own candidate, whose files have plain names.
    """

    run: Run
    variant: Variant
    first: bool

    def file(self, name: str) -> Path:
        """Where this variant's file of that name lies."""
        return self.run.out / Names(self.variant.name, self.first).file(name)

    def stage(self, name: str) -> str:
        """What this variant's stage is called in files, progress and reports."""
        return Names(self.variant.name, self.first).stage(name)

    def result(self, name: str, kind: type[_Result]) -> _Result:
        """What this variant's stage left; raises `SettingsError` where it was not done yet."""
        return read_result(self.run.out, self.stage(name), kind)

    @property
    def version(self) -> str:
        """The bundle's."""
        if self.first:
            return self.run.version
        return version_of(self.run.version, self.variant)

    @property
    def twin(self) -> VariantRun:
        """The first of the family that is pruned in the same way, whose pruned students are this one's, too."""
        return next(other for other in family(self.run) if other.variant.prune == self.variant.prune)

    @property
    def student(self) -> Path:
        """The weights that are exported: the pruned ones where it is pruned, else the run's."""
        return self.twin.file("pruned.pt") if self.variant.prune else self.run.out / STUDENT

    @property
    def scores(self) -> str:
        """Name of the file with the out-of-fold scores of the uploads."""
        return self.twin.file(_PRUNED_SCORES).name if self.variant.prune else SCORES

    @property
    def lineage(self) -> dict[str, JsonValue]:
        """The run's, and which variant of which version this is."""
        said: dict[str, JsonValue] = {"of": self.run.version, **self.variant.model_dump(mode="json")}
        return {**self.run.lineage, "variant": said}


def version_of(version: str, variant: Variant) -> str:
    """The version of a run's further variant, no longer than versions may be.

    Numbers at its end stay, `name-7` or `name-7-2`: without them it would be another job's.
    """
    found = _NUMBERS.search(version)
    numbers = found[0] if found else ""
    end = f"{numbers}-{variant.name}"
    return version.removesuffix(numbers)[: _LONGEST_VERSION - len(end)] + end


def family(run: Run) -> list[VariantRun]:
    """Every variant of a run, its own candidate first."""
    return [VariantRun(run, variant, first=number == 0) for number, variant in enumerate(run.task.compression)]
