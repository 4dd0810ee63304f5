"""Labels that people chose, read from what they bring back: an export of Label Studio, or a table of id and label.

Nothing here knows which samples and labels exist; `cloud_service.labelling.corrections` holds them against that.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from cloud_service.labelling.label_studio import CONTROL, SAMPLE_ID

# Headings of a table that are understood; Label Studio's own CSV names its columns so.
_COLUMNS = {SAMPLE_ID: (SAMPLE_ID, "id"), CONTROL: (CONTROL, "choice"), "updated_at": ("updated_at", "created_at")}
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A sample's label; `row` counts from 1, `label` is a name, or the label's index."""

    row: int
    id: UUID
    label: str | int


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a row cannot be taken; `id` as it was written, where there is one."""

    row: int
    why: str
    id: str | None = None

    def __str__(self) -> str:
        return f"row {self.row}{f' ({self.id})' if self.id else ''}: {self.why}"


@dataclass(frozen=True, slots=True)
class Returned:
    """What people brought back.

    Attributes:
        chosen: at most one a sample, in the order of the rows.
        unlabelled: rows that nobody labelled.
    """

    chosen: tuple[Chosen, ...] = ()
    faults: tuple[Fault, ...] = ()
    unlabelled: int = 0


@dataclass(frozen=True, slots=True)
class _Vote:
    row: int
    id: str
    label: str
    at: datetime


def read(content: bytes) -> Returned:
    """Labels in a file: JSON of Label Studio (its `JSON` or `JSON-MIN` export), else CSV.

    Raises:
        ValueError: it is neither.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise ValueError(f"it is not text: {err}") from err
    if not text.lstrip().startswith(("[", "{")):
        return from_table(text)
    try:
        return from_label_studio(json.loads(text))
    except (json.JSONDecodeError, RecursionError) as err:
        raise ValueError(f"it is not JSON: {err}") from err


def from_label_studio(tasks: object) -> Returned:
    """Labels in an export of Label Studio: of a task's annotations, the newest that is not cancelled.

    Raises:
        ValueError: it is no list of tasks.
    """
    if not isinstance(tasks, list):
        raise ValueError("an export of Label Studio is a list of tasks")  # noqa: TRY004  # the file's fault
    votes: list[_Vote] = []
    faults: list[Fault] = []
    unlabelled = 0
    for row, task in enumerate(tasks, start=1):
        try:
            found = list(_votes(row, task))
        except _Unreadable as err:
            faults.append(err.fault)
            continue
        votes += found
        unlabelled += not found
    chosen, more = _newest(votes)
    return agreed(chosen, faults=[*faults, *more], unlabelled=unlabelled)


def from_table(text: str) -> Returned:
    """Labels in CSV: `id,label` a line; a heading may say in which order, and what else there is.

    Raises:
        ValueError: it is not CSV, or its heading has no such columns.
    """
    # A cell may hold a picture; the whole text has been limited by whoever read it.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    try:
        reader = csv.reader(io.StringIO(text), strict=True)
        lines = [(reader.line_num, line) for line in reader if line]
    except csv.Error as err:
        raise ValueError(f"it is not CSV: {err}") from err
    if not lines:
        return Returned()
    places, first = _places(lines[0][1])
    votes: list[_Vote] = []
    faults: list[Fault] = []
    unlabelled = 0
    for row, line in lines[first:]:
        cells = {name: line[place].strip() for name, place in places.items() if place < len(line)}
        if not {SAMPLE_ID, CONTROL} <= cells.keys():
            faults.append(Fault(row, "it has no id and label"))
        elif not cells[CONTROL]:
            unlabelled += 1
        else:
            votes.append(_Vote(row, cells[SAMPLE_ID], cells[CONTROL], _time(cells)))
    chosen, more = _newest(votes)
    return agreed(chosen, faults=[*faults, *more], unlabelled=unlabelled)


def slim(content: bytes) -> bytes:
    """A file without what its labels do not need, pictures above all; one that is no list of tasks stays as it is."""
    try:
        tasks = json.loads(content) if content.lstrip().startswith(b"[") else None
    except (ValueError, RecursionError):
        return content
    if not isinstance(tasks, list):
        return content
    return json.dumps([_slim(task) for task in tasks]).encode()


def agreed(chosen: Sequence[Chosen], *, faults: Sequence[Fault] = (), unlabelled: int = 0) -> Returned:
    """One label a sample; several that contradict each other are a fault."""
    by_id: dict[UUID, list[Chosen]] = {}
    for each in chosen:
        by_id.setdefault(each.id, []).append(each)
    kept: list[Chosen] = []
    found = list(faults)
    for sample_id, same in by_id.items():
        if len({each.label for each in same}) > 1:
            named = " and ".join(f"{each.label!r} in row {each.row}" for each in same)
            found.append(Fault(same[-1].row, f"labelled {named}, and nothing says which is newer", str(sample_id)))
        else:
            kept.append(same[0])
    return Returned(
        tuple(sorted(kept, key=lambda each: each.row)),
        tuple(sorted(found, key=lambda fault: fault.row)),
        unlabelled,
    )


def _slim(task: object) -> object:
    if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
        return task
    data = {name: value for name, value in task["data"].items() if name == SAMPLE_ID}
    return {"data": data, "annotations": task.get("annotations")}


class _Unreadable(Exception):
    def __init__(self, row: int, why: str, sample_id: object = None) -> None:
        self.fault = Fault(row, why, None if sample_id is None else str(sample_id)[:64])
        super().__init__(why)


def _places(heading: Sequence[str]) -> tuple[dict[str, int], int]:
    """Where a table's cells are, and the first line that is not the heading."""
    names = [name.strip().lower() for name in heading]
    places = {
        meaning: names.index(name)
        for meaning, spellings in _COLUMNS.items()
        for name in reversed(spellings)
        if name in names
    }
    if {SAMPLE_ID, CONTROL} <= places.keys():
        return places, 1
    if len(names) == 2 and not places:
        return {SAMPLE_ID: 0, CONTROL: 1}, 0
    raise ValueError("a table needs the columns id and label: two columns in this order, or a heading that names them")


def _votes(row: int, task: object) -> Iterator[_Vote]:
    """Every label of a task that somebody chose."""
    if not isinstance(task, dict):
        raise _Unreadable(row, "it is no task")
    if "annotations" not in task and "data" not in task:
        yield from _flat(row, task)
        return
    data, annotations = task.get("data"), task.get("annotations") or []
    sample_id = data.get(SAMPLE_ID) if isinstance(data, dict) else None
    if not isinstance(sample_id, str):
        raise _Unreadable(row, f"its data has no {SAMPLE_ID}: it was not exported by edgeloop")
    if not isinstance(annotations, list) or not all(isinstance(each, dict) for each in annotations):
        raise _Unreadable(row, "its annotations are no list of annotations", sample_id)
    for annotation in annotations:
        label = None if annotation.get("was_cancelled") else _label(row, annotation, sample_id)
        if label is not None:
            yield _Vote(row, sample_id, label, _time(annotation))


def _flat(row: int, task: Mapping[str, Any]) -> Iterator[_Vote]:
    """A task of the `JSON-MIN` export: one annotation, its fields beside the data's."""
    sample_id = task.get(SAMPLE_ID)
    if not isinstance(sample_id, str):
        raise _Unreadable(row, f"it has no {SAMPLE_ID}: it was not exported by edgeloop")
    label = task.get(CONTROL)
    if isinstance(label, str):
        yield _Vote(row, sample_id, label, _time(task))
    elif label is not None:
        raise _Unreadable(row, "it has several labels; a sample has one", sample_id)


def _label(row: int, annotation: Mapping[str, Any], sample_id: str) -> str | None:
    """The one label that an annotation chose; None when it chose none."""
    results = annotation.get("result") or []
    if not isinstance(results, list) or not all(isinstance(each, dict) for each in results):
        raise _Unreadable(row, "an annotation's result is no list", sample_id)
    choices = [each for each in results if each.get("type") == "choices"]
    # Whoever wrote a config of their own may have named the control otherwise, or asked for more than the label.
    ours = [each for each in choices if each.get("from_name") == CONTROL] or choices
    if not ours:
        return None
    value = ours[0].get("value")
    names = value.get("choices") if isinstance(value, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _Unreadable(row, "an annotation's choices are no list of labels", sample_id)
    if len(ours) > 1 or len(names) > 1:
        raise _Unreadable(row, "an annotation chose several labels; a sample has one", sample_id)
    return names[0] if names else None


def _time(annotation: Mapping[str, Any]) -> datetime:
    text = annotation.get("updated_at") or annotation.get("created_at")
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else _LONG_AGO
    except ValueError:
        return _LONG_AGO
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _newest(votes: Sequence[_Vote]) -> tuple[list[Chosen], list[Fault]]:
    """Each sample's newest labels; without times all are as new as each other."""
    by_id: dict[UUID, list[_Vote]] = {}
    faults: list[Fault] = []
    for vote in votes:
        try:
            by_id.setdefault(UUID(vote.id), []).append(vote)
        except ValueError:
            faults.append(Fault(vote.row, "its id is no sample's", vote.id[:64]))
    chosen: list[Chosen] = []
    for sample_id, same in by_id.items():
        last = max(vote.at for vote in same)
        chosen += [Chosen(vote.row, sample_id, vote.label) for vote in same if vote.at == last]
    return chosen, faults
