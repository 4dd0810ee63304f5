"""Samples as one npz file, for numpy: written to the disk, because its first bytes say how many there are."""

from __future__ import annotations

import asyncio
import shutil
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from cloud_service.errors import NotFound, RequestInvalid
from cloud_service.labelling.exports import Wanted, with_tensors
from cloud_service.storage.models import Sample
from cloud_service.storage.samples import SampleStore, answer_of
from cloud_service.tasks.task import TaskDefinition
from shared import atomic
from shared.codec import Array

# Their ids, labels and probabilities are kept in memory, their tensors are not.
MAX_SAMPLES = 100_000
_CHUNK = 1 << 20


@dataclass(slots=True)
class _Columns:
    """What the archive has of each sample beside its tensor."""

    rows: list[Sample] = field(default_factory=list)

    def arrays(self, task: TaskDefinition) -> dict[str, Array]:
        """One array a column, all with N rows, and the labels' names; -1 stands for no label."""
        rows, classes = self.rows, len(task.labels)
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
            "labels": np.array(task.labels),
        }


async def write(
    store: SampleStore, wanted: Wanted, task: TaskDefinition, folder: Path, *, at_most: int = MAX_SAMPLES
) -> Path:
    """Write the archive into the folder: `x` [N, *shape] as the devices sent it, and a column for whatever is known.

    Raises:
        NotFound: no sample matches.
        RequestInvalid: more than `at_most` do.
        StorageFull: the disk took no more.
    """
    raw, target = folder / "x", folder / "samples.npz"
    columns = _Columns()
    try:
        with raw.open("wb") as file:
            async for page in with_tensors(store, wanted, task):
                columns.rows += [row for row, _ in page]
                if len(columns.rows) > at_most:
                    raise RequestInvalid(f"more than {at_most:,} samples match: narrow the filter, or give a limit")
                await asyncio.to_thread(_append, file, [tensor for _, tensor in page])
        if not columns.rows:
            raise NotFound("no sample of this task matches: nothing to export")
        await asyncio.to_thread(_pack, target, raw, columns, task)
    except OSError as err:
        raise atomic.full_or_same(err, target) from err
    return target


def _append(file: BinaryIO, tensors: list[Array]) -> None:
    file.writelines(np.ascontiguousarray(tensor).tobytes() for tensor in tensors)


def _pack(target: Path, raw: Path, columns: _Columns, task: TaskDefinition) -> None:
    """Not compressed: the samples hardly are, and a reader may map them."""
    header = {
        "descr": npy.dtype_to_descr(np.dtype(task.input_dtype).newbyteorder("<")),
        "fortran_order": False,
        "shape": (len(columns.rows), *task.input_shape),
    }
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("x.npy", "w", force_zip64=True) as member, raw.open("rb") as file:
            npy.write_array_header_1_0(member, header)
            shutil.copyfileobj(file, member, _CHUNK)
        raw.unlink()
        for name, array in columns.arrays(task).items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, array, allow_pickle=False)
