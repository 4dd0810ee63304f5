"""A task as a file of its own: read, and refused with the line of what is wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cloud_service.tasks.task import TaskDefinition
from shared.errors import SettingsError
from shared.settings import Settings, explain_problem

_TABLE = re.compile(r"^\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"""^\s*("[^"]+"|'[^']+'|[\w-]+(?:\s*\.\s*[\w-]+)*)\s*=""")


class TaskFile(Settings, TaskDefinition):
    """What `[tasks.x]` holds, with its `name`."""

    env_prefix: ClassVar[str] = "EDGELOOP_TASK__"


def read_task_file(file: Path) -> TaskDefinition:
    """The task in a file, its relative paths below the file's folder.

    Raises:
        SettingsError: missing, not TOML, or with a key that is unknown or impossible; each with its line.
    """
    try:
        read = TaskFile.load(file)
    except SettingsError as err:
        if not isinstance(err.__cause__, ValidationError):
            raise
        text = file.read_text(encoding="utf-8")
        said = []
        for problem in err.__cause__.errors():
            words = explain_problem(TaskFile, problem).removeprefix(": ")
            line = line_of(text, (*problem["loc"], *_first_key(problem)))
            said.append(f"{file}:{line}: {words}")
        raise SettingsError("\n".join(said)) from err
    return TaskDefinition.model_validate(read.model_dump()).below(file.resolve().parent)


def _first_key(problem: ErrorDetails) -> list[str]:
    """The key that our own words on several keys begin with."""
    error = problem.get("ctx", {}).get("error")
    return [str(error).partition(" ")[0].rstrip(":")] if isinstance(error, ValueError) else []


def line_of(text: str, place: Sequence[str | int]) -> int:
    """The line, from 1, that sets what pydantic calls `place`, or the nearest table above it.

    Written for files as people write them: one key a line, tables in brackets. A union's tags within `place`, which
    the file does not hold, are passed over.
    """
    best, best_length = 1, 0
    for line, keys in _lines(text):
        matched = _matched(keys, place)
        if matched > best_length:
            best, best_length = line, matched
    return best


def _matched(keys: Sequence[str | int], place: Sequence[str | int]) -> int:
    """How many of a line's keys lead to `place`; 0 where the line leads elsewhere."""
    found = 0
    for part in place:
        if found < len(keys) and keys[found] == part:
            found += 1
    return found if found == len(keys) else 0


def _lines(text: str) -> list[tuple[int, tuple[str | int, ...]]]:
    """Each line that opens a table or sets a key, with the whole path of it."""
    table: tuple[str | int, ...] = ()
    seen: dict[str, int] = {}
    found: list[tuple[int, tuple[str | int, ...]]] = []
    for line, written in enumerate(text.splitlines(), start=1):
        if opened := _TABLE.match(written):
            name = _parts(opened[2])
            table = name
            if opened[1] == "[[":
                seen[opened[2]] = seen.get(opened[2], -1) + 1
                table = (*name, seen[opened[2]])
            elif name and ".".join(map(str, name[:1])) in seen:
                table = (name[0], seen[str(name[0])], *name[1:])
            found.append((line, table))
        elif key := _KEY.match(written):
            found.append((line, (*table, *_parts(key[1]))))
    return found


def _parts(written: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in written.split("."))
