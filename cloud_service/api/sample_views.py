"""Samples between the API and the store: filters with their labels' names found, rows as they are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from cloud_service.api.sample_resources import HumanLabelView, SampleScope, SampleView, VerdictView
from cloud_service.errors import NotFound, RequestInvalid
from cloud_service.labelling import corrections
from cloud_service.settings import ServedTask
from cloud_service.storage.models import Sample
from cloud_service.storage.samples import SampleFilter, answer_of

Tasks = Mapping[str, ServedTask]


def sample_id(text: str) -> UUID:
    """The id in a path.

    Raises:
        NotFound: it is none.
    """
    try:
        return UUID(text)
    except ValueError as err:
        raise NotFound(f"{text!r} is no sample id") from err


def the_task(tasks: Tasks, name: str | None) -> ServedTask:
    """The served task of this name; without a name the only one.

    Raises:
        NotFound: it is not served.
        RequestInvalid: there is no name and more than one task, or none.
    """
    served = ", ".join(tasks) or "none"
    if name is None and len(tasks) == 1:
        return next(iter(tasks.values()))
    if name is None:
        raise RequestInvalid(f"query: task: say which; this service serves {served}")
    if name not in tasks:
        raise NotFound(f"this service serves no task {name!r}; it serves {served}")
    return tasks[name]


def sample_filter(asked: SampleScope, tasks: Tasks) -> SampleFilter:
    """The store's filter.

    Raises:
        RequestInvalid: a label is none of the task's; `until` is not after `since`.
    """
    if asked.since and asked.until and asked.until <= asked.since:
        raise RequestInvalid("query: until: must be after since")
    return SampleFilter(
        task=asked.task,
        device=asked.device,
        label=_index(asked.label, asked.task, tasks),
        reason=asked.reason,
        teacher=asked.teacher,
        bundle_version=asked.bundle,
        human_label=_index(asked.human_label, asked.task, tasks),
        labelled=asked.labelled,
        since=asked.since,
        until=asked.until,
        min_hardness=asked.min_hardness,
        max_hardness=asked.max_hardness,
    )


def name_of(label: int, labels: Sequence[str] | None) -> str | None:
    """A label's name; None where the task is not served or has no such label."""
    return labels[label] if labels is not None and label < len(labels) else None


def sample_view(row: Sample, tasks: Tasks) -> SampleView:
    """A row as it is shown."""
    labels = tasks[row.task].labels if row.task in tasks else None
    return SampleView(
        id=row.id,
        device=row.device,
        task=row.task,
        seq=row.seq,
        bundle_version=row.bundle_version,
        prediction=row.prediction,
        prediction_name=name_of(row.prediction, labels),
        hardness=row.hardness,
        reason=row.reason,
        inclusion_probability=row.inclusion_probability,
        stored_at=row.stored_at,
        verdict=_verdict(row, labels),
        human=_human(row, labels),
        failure=row.failure,
        payload_bytes=row.payload_bytes,
        duplicates=row.duplicates,
        duplicate_of=row.duplicate_of,
    )


def _verdict(row: Sample, labels: Sequence[str] | None) -> VerdictView | None:
    answer = answer_of(row)
    if answer is None or row.answered_at is None:
        return None
    return VerdictView(
        label=answer.label,
        name=name_of(answer.label, labels),
        probabilities=answer.probabilities.tolist(),
        temperature=answer.temperature,
        teacher=answer.teacher,
        answered_at=row.answered_at,
    )


def _human(row: Sample, labels: Sequence[str] | None) -> HumanLabelView | None:
    if row.human_label is None or row.labelled_at is None:
        return None
    return HumanLabelView(
        label=row.human_label,
        name=name_of(row.human_label, labels),
        by=row.labelled_by or "",
        at=row.labelled_at,
    )


def _index(text: str | None, task: str | None, tasks: Tasks) -> int | None:
    """The index that a label in a query means: a name where the task is known, else a number."""
    if text is None:
        return None
    known = tasks.get(task) if task is not None else next(iter(tasks.values())) if len(tasks) == 1 else None
    if known is not None and (found := corrections.index_of(text, known.labels)) is not None:
        return found
    if text.isascii() and text.isdigit() and len(text) < 10:
        return int(text)
    if known is None:
        raise RequestInvalid(f"query: label: {text!r} is a name, so say of which task, too")
    raise RequestInvalid(f"query: label: {corrections.unknown(text, known.name, known.labels)}")
