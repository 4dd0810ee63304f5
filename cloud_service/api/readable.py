"""What can be read of a message that another version of the service has stored. Pure."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)


def readable(model: type[M], stored: dict[str, Any] | None) -> M | None:
    """A stored message without those fields that this version does not know, or whose values it does not take.

    Where a part lacks something that it needs, the part is left out whole.

    Returns:
        None: nothing was stored, or the message itself lacks something that it needs.
    """
    left = stored
    # Each time round, something is taken out of it.
    while left is not None:
        try:
            return model.model_validate(left)
        except ValidationError as err:
            if left is stored:
                left = copy.deepcopy(left)
            # One at a time: what one takes out others may lie in.
            first = err.errors(include_url=False, include_context=False, include_input=False)[0]
            if not _taken_out(left, first["loc"]):
                return None
    return None


def _taken_out(content: dict[str, Any], place: Sequence[int | str]) -> bool:
    """Take out what lies at a place, or the innermost part around it that is there; False: that is all of it."""
    parts: list[tuple[Any, int | str]] = []
    inner: Any = content
    for step in place:
        there = step in inner if isinstance(inner, dict) else isinstance(inner, list) and step in range(len(inner))
        if not there:
            break
        parts.append((inner, step))
        inner = inner[step]
    if not parts:
        return False
    outer, step = parts[-1]
    if isinstance(outer, list):
        return _taken_out(content, [step for _, step in parts[:-1]])
    del outer[step]
    return True
