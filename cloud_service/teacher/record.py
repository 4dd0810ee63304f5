"""What was measured of a teacher on this host, kept beside the converted file so that the next start takes it at once.

A teacher's folder, `data_dir/teachers/<digest of source and settings>/`:

request.json    what the converting process was asked
float.onnx      the exported model, where torch was the source
int8.onnx       the quantized one, where it was chosen
choice.json     the choice, the numbers that led to it, and what they hold for
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from cloud_service.teacher.choice import Choice, Measured
from shared import atomic
from shared.bundle import sha256_file

log = logging.getLogger(__name__)

REQUEST, CHOICE, FLOAT, INT8 = "request.json", "choice.json", "float.onnx", "int8.onnx"


@dataclass(frozen=True, slots=True)
class Record:
    """A choice and its grounds.

    Attributes:
        holds_for: libraries, processor and samples; another value of any of them: measure again.
        file: the converted file in the same folder; empty: the source itself runs.
        file_sha256: its hash, empty without one.
        checked: samples that the backends were held against each other with.
    """

    holds_for: Mapping[str, str]
    choice: Choice
    file: str = ""
    file_sha256: str = ""
    checked: int = 0
    measured: tuple[Measured, ...] = ()


_RECORD = TypeAdapter(Record)


def read_record(folder: Path, holds_for: Mapping[str, str]) -> Record | None:
    """The record in a teacher's folder, if it is whole and holds for this host."""
    try:
        record = _RECORD.validate_json((folder / CHOICE).read_bytes())
        intact = not record.file or sha256_file(folder / record.file) == record.file_sha256
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as err:
        log.warning("%s cannot be read, so the teacher is measured again: %s", folder / CHOICE, err)
        return None
    if not intact:
        log.warning("%s is not what was written, so it is converted again", folder / record.file)
        return None
    changed = sorted(
        name for name in {*record.holds_for, *holds_for} if record.holds_for.get(name) != holds_for.get(name)
    )
    if changed:
        log.info("the teacher in %s is measured again: changed since: %s", folder, ", ".join(changed))
        return None
    return record


def write_record(folder: Path, record: Record) -> None:
    """Replace the record; raises like `atomic.write_bytes`."""
    atomic.write_bytes(folder / CHOICE, _RECORD.dump_json(record, indent=2) + b"\n")
