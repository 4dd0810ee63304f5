"""A sample with what its caller or source says of it."""

from __future__ import annotations

from dataclasses import dataclass

from shared.codec import Array


@dataclass(frozen=True, slots=True)
class Request:
    """What the pipeline is asked; None: as the task's settings say.

    Attributes:
        tensor: of the task's shape and dtype, without a batch axis.
        reference: the caller's or source's own, to know the sample by.
        deadline_s: how long the caller waits for a verdict, from now.
    """

    tensor: Array
    reference: int | str | None = None
    deadline_s: float | None = None
    training_use: bool | None = None
    audit_fraction: float | None = None
