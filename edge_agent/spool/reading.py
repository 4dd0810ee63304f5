"""A spooled sample, put together from its row and its payload."""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.spool.headers import unpack
from edge_agent.spool.rows import Row
from edge_agent.spool.segments import Segments
from shared import codec
from shared.codec import Array
from shared.errors import MalformedFrame
from shared.messages import SampleHeader


@dataclass(frozen=True, slots=True)
class SpooledSample:
    """A sample that waits; `age_s` since it was put in, by the device's clock, never negative."""

    header: SampleHeader
    tensor: Array
    age_s: float


def whole(row: Row | None, segments: Segments) -> tuple[SampleHeader, Array]:
    """Header and tensor; reads the disk.

    Raises:
        FrameError: the row or the payload is gone or damaged.
        OSError: the disk cannot be read.
    """
    if row is None:
        raise MalformedFrame("gone")
    payload = segments.read(row.place)
    if payload is None:
        raise MalformedFrame("not whole (a power loss?)")
    return unpack(row.sample_id, row.header), codec.decode(payload)
