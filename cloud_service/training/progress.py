"""How far a training run is: one JSON object a line, so that whoever started the child process can follow it."""

from __future__ import annotations

import json
from typing import Protocol, TextIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import MalformedFrame


class Step(BaseModel):
    """One report: `done` of `total` units of `stage`; `message` for people."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    done: int = Field(ge=0)
    total: int = Field(ge=0)
    message: str = ""


class Progress(Protocol):
    """Whoever wants to know how far a run is."""

    def __call__(self, step: Step) -> None:
        """Take note of a step; must be quick and must not raise."""


class JsonLines:
    """Writes each step as one line of JSON, flushed."""

    def __init__(self, target: TextIO) -> None:
        self._target = target

    def __call__(self, step: Step) -> None:
        self._target.write(json.dumps(step.model_dump()) + "\n")
        self._target.flush()


def silent(step: Step) -> None:
    """Forget the step."""


def parse(line: str) -> Step:
    """The step in a line that `JsonLines` wrote.

    Raises:
        MalformedFrame: not such a line.
    """
    try:
        return Step.model_validate_json(line)
    except ValidationError as err:
        raise MalformedFrame(f"not a progress line: {line[:200]!r}") from err
