"""Samples that the cloud has and has not answered, written down at the end: the next start tells their corrections.

What still lies in the spool is not here: its header is there. A kill costs what was not written down: their verdicts
count for nothing when they come.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from edge_agent.spool.headers import pack, unpack
from edge_agent.uplink.correlation import Correlation
from shared import atomic, codec
from shared.errors import FrameError, MalformedFrame, StorageFull
from shared.messages import SampleHeader

log = logging.getLogger(__name__)

MAX_PENDING = 1_000
_MAX_FILE_BYTES = 2 * 1024**2
_MAX_REFERENCE = 1_000


class Pending:
    """`file` holds the newest `MAX_PENDING` of them, about 130 bytes each."""

    def __init__(self, file: Path, correlation: Correlation) -> None:
        """Tell `correlation` of what the last run wrote down; what cannot be read is forgotten, and said."""
        self._file, self._correlation = file, correlation
        try:
            found = _unpacked(codec.decode(file.read_bytes(), max_bytes=_MAX_FILE_BYTES))
        except FileNotFoundError:
            return
        except (OSError, FrameError) as err:
            log.warning("the samples in %s that wait for a verdict are forgotten: %s", file, err)
            return
        for header, reference in found:
            correlation.ask(header, reference=reference, until_s=None)
            correlation.received([header.sample_id])

    def save(self) -> None:
        """Write down what waits now; a disk that refuses costs corrections alone."""
        waiting = self._correlation.unanswered()[-MAX_PENDING:]
        try:
            if waiting:
                atomic.write_bytes(self._file, codec.encode(_packed(waiting)))
            else:
                atomic.remove(self._file)
        except (OSError, StorageFull) as err:
            log.warning("%d samples that wait for a verdict are forgotten at the end: %s", len(waiting), err)


def _packed(waiting: Sequence[tuple[SampleHeader, int | str | None]]) -> list[list[object]]:
    return [[header.sample_id, pack(header), _storable(reference)] for header, reference in waiting]


def _storable(reference: int | str | None) -> int | str | None:
    if isinstance(reference, int):
        return reference if reference.bit_length() < 64 else None
    return reference if reference is None or len(reference) <= _MAX_REFERENCE else None


def _unpacked(value: object) -> list[tuple[SampleHeader, int | str | None]]:
    found: list[tuple[SampleHeader, int | str | None]] = []
    for entry in value if isinstance(value, list) else [value]:
        match entry:
            case [UUID() as sample_id, bytes() as header, (int() | str() | None) as reference]:
                found.append((unpack(sample_id, header), reference))
            case _:
                raise MalformedFrame("it holds something else")
    return found
