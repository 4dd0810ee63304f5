"""Samples as one npz file, for numpy: written to the disk, because its first bytes say how many there are."""

from __future__ import annotations

import asyncio
import shutil
import zipfile
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from cloud_service.errors import NotFound
from cloud_service.labelling.exports import Wanted, tensor_bytes, with_tensors
from cloud_service.storage.models import Sample
from cloud_service.storage.samples import SampleStore, answer_of
from cloud_service.tasks.task import TaskDefinition
from shared import atomic
from shared.codec import Array

# Their ids, labels and probabilities are kept in memory, their tensors are not.
MAX_SAMPLES = 100_000
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Archive:
    """A file with samples.

    Attributes:
        samples: how many it has.
        rest: the number of the last of them, where more match than one file may hold; None: these are all.
    """

    file: Path
    samples: int
    rest: int | None


async def write(
    store: SampleStore,
    wanted: Wanted,
    task: TaskDefinition,
    folder: Path,
    *,
    max_bytes: int,
    max_samples: int = MAX_SAMPLES,
) -> Archive:
    """Write the newest samples into the folder: `x` [N, *shape] as the devices sent it, and whatever else is known.

    Args:
        max_bytes: of the tensors, though one sample is always taken; while the file is made its disk holds them twice.

    Raises:
        NotFound: no sample matches.
        StorageFull: the disk took no more.
    """
    raw, target = folder / "x", folder / "samples.npz"
    room = min(max_samples, max(1, max_bytes // max(1, tensor_bytes(task))))
    columns: list[dict[str, Array]] = []
    count, last, rest = 0, 0, None
    try:
        with raw.open("wb") as file:
            async with aclosing(with_tensors(store, wanted, task)) as pages:
                async for page in pages:
                    taken = page[: room - count]
                    if taken:
                        await asyncio.to_thread(_append, file, [tensor for _, tensor in taken])
                        columns.append(_columns([row for row, _ in taken], task))
                        count, last = count + len(taken), taken[-1][0].number
                    if len(taken) < len(page):
                        rest = last
                        break
        if not count:
            raise NotFound("no sample of this task matches: nothing to export")
        await asyncio.to_thread(_pack, target, raw, columns, task)
    except OSError as err:
        raise atomic.full_or_same(err, target) from err
    return Archive(target, count, rest)


def _columns(rows: Sequence[Sample], task: TaskDefinition) -> dict[str, Array]:
    """What the archive has of each sample beside its tensor: one array a column; -1 stands for no label."""
    classes = len(task.labels)
    probabilities = np.full((len(rows), classes), np.nan, np.float32)
    for number, row in enumerate(rows):
        answer = answer_of(row)
        if answer is not None and len(answer.probabilities) == classes:
            probabilities[number] = answer.probabilities
    human = np.array([-1 if row.human_label is None else row.human_label for row in rows], np.int64)
    teacher = np.array([-1 if row.label is None else row.label for row in rows], np.int64)
    return {
        "label": np.where(human >= 0, human, teacher),
        "human": human,
        "teacher": teacher,
        "edge": np.array([row.prediction for row in rows], np.int64),
        "probabilities": probabilities,
        "hardness": np.array([row.hardness for row in rows], np.float64),
        "inclusion_probability": np.array([row.inclusion_probability for row in rows], np.float64),
        "id": np.array([str(row.id) for row in rows], "U36"),
        "device": np.array([row.device for row in rows], "U64"),
        "reason": np.array([row.reason for row in rows], "U32"),
        "bundle": np.array([row.bundle_version for row in rows], "U64"),
        "stored_at": np.array([row.stored_at.replace(tzinfo=None) for row in rows], "M8[ms]"),
    }


def _append(file: BinaryIO, tensors: Sequence[Array]) -> None:
    file.writelines(np.ascontiguousarray(tensor).tobytes() for tensor in tensors)


def _pack(target: Path, raw: Path, columns: Sequence[dict[str, Array]], task: TaskDefinition) -> None:
    """Not compressed: the samples hardly are, and a reader may map them."""
    header = {
        "descr": npy.dtype_to_descr(np.dtype(task.input_dtype).newbyteorder("<")),
        "fortran_order": False,
        "shape": (sum(len(each["id"]) for each in columns), *task.input_shape),
    }
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("x.npy", "w", force_zip64=True) as member, raw.open("rb") as file:
            npy.write_array_header_1_0(member, header)
            shutil.copyfileobj(file, member, _CHUNK)
        raw.unlink()
        for name in columns[0]:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, np.concatenate([each[name] for each in columns]), allow_pickle=False)
        with archive.open("labels.npy", "w", force_zip64=True) as member:
            npy.write_array(member, np.array(task.labels), allow_pickle=False)
