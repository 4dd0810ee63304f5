"""A sample's header as it lies in its row: without the id, which the row has, and without what is as usual."""

from __future__ import annotations

from uuid import UUID

from pydantic import ValidationError

from shared import codec
from shared.errors import MalformedFrame
from shared.messages import SampleHeader


def pack(header: SampleHeader) -> bytes:
    """About 90 bytes; `unpack` gives the header back."""
    return codec.encode(header.model_dump(exclude={"sample_id"}, exclude_defaults=True))


def unpack(sample_id: UUID, packed: bytes) -> SampleHeader:
    """The header of a row.

    Raises:
        FrameError: it is damaged, or another release's.
    """
    fields = codec.decode(packed)
    if not isinstance(fields, dict):
        raise MalformedFrame(f"a header must be a map, not {type(fields).__name__}")
    try:
        return SampleHeader.model_validate({**fields, "sample_id": sample_id})
    except (ValidationError, TypeError) as err:
        raise MalformedFrame(f"a header has a field missing, wrong or unknown: {err}") from err
