"""Where a task's samples come from: one table for each source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from shared.settings import Section


class ReplaySettings(Section):
    """Samples from a file, at a steady rate; the source waits for a slow consumer and drops nothing.

    Attributes:
        kind: `"replay"`.
        path: `.npz` with `x` [N, *shape] and, optionally, `reference` [N] integers that ride into the outcomes.
        rate_hz: samples a second; 0: as fast as they are taken.
        repeat: start over at the end, for ever.
        training_use: overrides the task's.
        audit_fraction: overrides the task's.
    """

    kind: Literal["replay"]
    path: Path
    rate_hz: Annotated[float, Field(ge=0)] = 0.0
    repeat: bool = False
    training_use: bool | None = None
    audit_fraction: Annotated[float, Field(ge=0, le=1)] | None = None


class DirectorySettings(Section):
    """`.npy` files that appear in a folder, oldest first; each moves to `done/`, or to `failed/` when it is no array.

    Attributes:
        kind: `"directory"`.
        path: the folder; `done/` and `failed/` are made in it.
        training_use: overrides the task's.
        audit_fraction: overrides the task's.
        poll_s: seconds between looks at the folder.
        keep: how many files `done/` and `failed/` keep each; the oldest are deleted.
    """

    kind: Literal["directory"]
    path: Path
    poll_s: Annotated[float, Field(gt=0)] = 0.5
    keep: Annotated[int, Field(ge=0)] = 1000
    training_use: bool | None = None
    audit_fraction: Annotated[float, Field(ge=0, le=1)] | None = None


SourceSettings = Annotated[ReplaySettings | DirectorySettings, Field(discriminator="kind")]
