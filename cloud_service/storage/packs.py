"""Packs: the payloads of one batch in one object. Pure: no database, no store.

A file costs about half a millisecond of processor time to make and sync, and a request to an object store costs more
still; so what is stored together lies together. A pack is a CBOR sequence (RFC 8742) of typed arrays (RFC 8746): each
payload can be read alone, by its range of bytes, and a pack can be read without the database. What a pack is called is
not told by what is in it: see `cloud_service.storage.payloads`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from shared import codec
from shared.codec import Array


@dataclass(frozen=True, slots=True)
class Place:
    """One payload of a pack.

    Attributes:
        blob: sha256 of its bytes, in hexadecimal digits.
        start, size: where in the pack it lies.
    """

    blob: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Pack:
    """Payloads that are stored as one object.

    Attributes:
        places: one for each payload that was given, in order; those with the same bytes share one.
    """

    data: bytes
    places: tuple[Place, ...]


def pack_tensors(tensors: Sequence[Array]) -> Pack:
    """Tensors as one pack; each tensor's bytes are copied once."""
    return _packed([codec.encode_array(tensor) for tensor in tensors])


def pack_payloads(payloads: Sequence[bytes]) -> Pack:
    """Payloads that were read from other packs, as one."""
    return _packed([(payload,) for payload in payloads])


def _packed(payloads: Sequence[Sequence[bytes | memoryview]]) -> Pack:
    known: dict[str, Place] = {}
    parts: list[bytes | memoryview] = []
    places: list[Place] = []
    end = 0
    for payload in payloads:
        digest = hashlib.sha256()
        for part in payload:
            digest.update(part)
        blob = digest.hexdigest()
        place = known.get(blob)
        if place is None:
            place = known[blob] = Place(blob, end, sum(len(part) for part in payload))
            parts += payload
            end += place.size
        places.append(place)
    return Pack(b"".join(parts), tuple(places))
