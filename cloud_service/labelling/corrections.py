"""Labels that people chose, held against the samples and labels that there are: taken whole, or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from cloud_service.labelling.returned import Chosen, Fault

# Faults that an error names; the rest is counted.
_NAMED = 10


@dataclass(frozen=True, slots=True)
class Corrections:
    """What is to be stored, as indices of labels, and the rows that cannot be."""

    labels: tuple[tuple[UUID, int], ...]
    faults: tuple[Fault, ...]


def resolve(chosen: Iterable[Chosen], *, tasks: Mapping[UUID, str], labels: Mapping[str, Sequence[str]]) -> Corrections:
    """Find each sample's task and the label in it.

    Args:
        tasks: the task of each sample that is stored.
        labels: the labels of each task that is served.
    """
    taken: list[tuple[UUID, int]] = []
    faults: list[Fault] = []
    for each in chosen:
        task = tasks.get(each.id)
        if task is None:
            faults.append(Fault(each.row, "no such sample is stored", str(each.id)))
        elif task not in labels:
            faults.append(Fault(each.row, f"this service serves no task {task}", str(each.id)))
        elif (index := index_of(each.label, labels[task])) is None:
            faults.append(Fault(each.row, unknown(each.label, task, labels[task]), str(each.id)))
        else:
            taken.append((each.id, index))
    return Corrections(tuple(taken), tuple(faults))


def index_of(label: str | int, names: Sequence[str]) -> int | None:
    """The index of a label: a string is its name, a number is the index itself; None: there is no such label."""
    if isinstance(label, int):
        return label if 0 <= label < len(names) else None
    return names.index(label) if label in names else None


def unknown(label: str | int, task: str, names: Sequence[str]) -> str:
    """What is wrong with a label that a task does not have."""
    listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return f"{task} has no label {label!r}; it has {listed}"


def listing(faults: Sequence[Fault]) -> str:
    """The faults in a few words each, the first ones at least."""
    named = "; ".join(map(str, faults[:_NAMED]))
    return named if len(faults) <= _NAMED else f"{named}; and {len(faults) - _NAMED} more"
