"""Samples on their way out to people and their tools, page by page: never more than a page is in memory."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cloud_service.errors import NotFound
from cloud_service.labelling import label_studio, pictures
from cloud_service.labelling.label_studio import Said
from cloud_service.storage.models import Sample
from cloud_service.storage.samples import SampleFilter, SampleStore, answer_of
from cloud_service.tasks.task import TaskDefinition
from shared.codec import Array

# Rows read at once, and tensors: so many, but no more than one where it is as large as this.
_ROWS = 500
_TENSORS = 16
_TENSOR_BYTES = 16 * 1024**2


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which samples, newest first, and how many at most; None: all. `before`: only those with a smaller number."""

    which: SampleFilter
    limit: int | None = None
    before: int | None = None


async def rows(store: SampleStore, wanted: Wanted, *, at_once: int = _ROWS) -> AsyncGenerator[list[Sample], None]:
    """The rows, a page at a time; what is stored meanwhile is not among them."""
    before, left = wanted.before, wanted.limit
    while left is None or left > 0:
        size = at_once if left is None else min(at_once, left)
        page = await store.page(wanted.which, before=before, limit=size)
        if page:
            yield page
        if len(page) < size:
            return
        before = page[-1].number
        left = None if left is None else left - len(page)


async def with_tensors(
    store: SampleStore, wanted: Wanted, task: TaskDefinition, *, max_bytes: int = _TENSOR_BYTES
) -> AsyncGenerator[list[tuple[Sample, Array]], None]:
    """The rows with their tensors, in lists of no more than `max_bytes`, or else of one.

    Left out is what was deleted meanwhile, and what the task's input does not describe (any more).
    """
    async for page in rows(store, wanted, at_once=_TENSORS):
        for some in _together(page, tensor_bytes(task), max_bytes):
            tensors = await asyncio.gather(*(_tensor(store, row) for row in some))
            yield [
                (row, each) for row, each in zip(some, tensors, strict=True) if each is not None and _fits(each, task)
            ]


def tensor_bytes(task: TaskDefinition) -> int:
    """What a sample's tensor takes in memory."""
    return math.prod(task.input_shape) * np.dtype(task.input_dtype).itemsize


async def lines(store: SampleStore, wanted: Wanted, line: Callable[[Sample], str]) -> AsyncGenerator[bytes, None]:
    """A line of JSON a sample."""
    async for page in rows(store, wanted):
        yield "".join(f"{line(row)}\n" for row in page).encode()


async def label_studio_tasks(
    store: SampleStore, wanted: Wanted, task: TaskDefinition, *, link: Callable[[Sample], str]
) -> AsyncGenerator[bytes, None]:
    """A JSON list of Label Studio's tasks; `link` gives the address of a sample's tensor."""
    before = "["
    async for page in with_tensors(store, wanted, task):
        written = await asyncio.to_thread(_tasks_of, page, task, [link(row) for row, _ in page])
        for each in written:
            yield f"{before}\n{each}".encode()
            before = ","
    yield b"[]\n" if before == "[" else b"\n]\n"


def label_studio_task(row: Sample, tensor: Array, task: TaskDefinition, *, link: str) -> dict[str, Any]:
    """One sample as Label Studio takes it: what the edge and the teacher said are predictions."""
    kind = pictures.kind_of(task.input.shape, tensor.dtype)
    answer = answer_of(row)
    edge = _name(row.prediction, task)
    # The edge sends no probability, only how hard it found the sample.
    said = [Said(edge, round(min(1.0, max(0.0, 1.0 - row.hardness)), 4), f"edge {row.bundle_version}")]
    data: dict[str, object] = {
        "device": row.device,
        "stored_at": row.stored_at.isoformat(),
        "reason": row.reason,
        "hardness": round(row.hardness, 4),
        "edge": edge,
    }
    if answer is not None:
        teacher = _name(answer.label, task)
        said.insert(0, Said(teacher, round(float(answer.probabilities.max()), 4), f"teacher {answer.teacher}"))
        data["teacher"] = teacher
    data[kind.value] = label_studio.shown(tensor, kind, link=link)
    human = None if row.human_label is None else _name(row.human_label, task)
    # A label that the task no longer has cannot be shown as a choice.
    known = [each for each in said if each.label in task.labels]
    return label_studio.task(row.id, data, said=known, human=human if human in task.labels else None)


def _together(page: Sequence[Sample], each_bytes: int, max_bytes: int) -> Iterator[list[Sample]]:
    """The rows, in lists whose tensors may be in memory at the same time."""
    some: list[Sample] = []
    size = 0
    for row in page:
        # A tensor of an earlier input of the task may be larger.
        own = max(each_bytes, row.payload_bytes)
        if some and size + own > max_bytes:
            yield some
            some, size = [], 0
        some.append(row)
        size += own
    if some:
        yield some


def _tasks_of(page: Sequence[tuple[Sample, Array]], task: TaskDefinition, links: Sequence[str]) -> list[str]:
    return [
        json.dumps(label_studio_task(row, tensor, task, link=link), allow_nan=False)
        for (row, tensor), link in zip(page, links, strict=True)
    ]


def _name(label: int, task: TaskDefinition) -> str:
    return task.labels[label] if label < len(task.labels) else f"#{label}"


def _fits(tensor: Array, task: TaskDefinition) -> bool:
    return tensor.shape == task.input_shape and tensor.dtype == task.input_dtype


async def _tensor(store: SampleStore, row: Sample) -> Array | None:
    try:
        return await store.tensor(row)
    except NotFound:
        return None
