"""Frames that no honest device sends, made from one that is honest. Pure: chance is an argument."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from random import Random

from shared import codec

# Nesting beyond what the contract takes, and beyond what a recursive decoder survives.
_DEPTH = 20_000
_CLAIMED_BYTES = 2 * 1024**3


class Spoilt(StrEnum):
    """What was done to a sample's frame."""

    CUT = "cut"
    FLIPPED = "flipped"
    TRAILING = "trailing"
    NOISE = "noise"
    EMPTY = "empty"
    NESTED = "nested"
    CLAIMED = "claimed"
    MISSHAPEN = "misshapen"
    STRANGE_TAG = "strange_tag"
    NO_HEADER = "no_header"
    SCHEMA = "schema"


def spoil(frame: bytes, kind: Spoilt, rng: Random) -> bytes:
    """Another frame. `FLIPPED` may still be a valid sample; the others are none."""
    return _SPOILING[kind](frame, rng)


def _cut(frame: bytes, rng: Random) -> bytes:
    return frame[: rng.randrange(1, len(frame))]


def _flipped(frame: bytes, rng: Random) -> bytes:
    out = bytearray(frame)
    for _ in range(rng.randint(1, 8)):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _trailing(frame: bytes, rng: Random) -> bytes:
    return frame + rng.randbytes(rng.randint(1, 64))


def _noise(frame: bytes, rng: Random) -> bytes:
    return rng.randbytes(rng.randint(1, 2 * len(frame)))


def _empty(_frame: bytes, _rng: Random) -> bytes:
    return b""


def _nested(_frame: bytes, _rng: Random) -> bytes:
    return b"\x81" * _DEPTH + b"\x00"


def _claimed(_frame: bytes, _rng: Random) -> bytes:
    # A byte string that says it has 2 GB, of which twelve bytes are there.
    return b"\xa2" + codec.encode("header") + b"\xa0" + codec.encode("tensor") + _claim(_CLAIMED_BYTES) + bytes(12)


def _claim(size: int) -> bytes:
    return b"\xd8\x28\x82\x81\x1a" + size.to_bytes(4, "big") + b"\xd8\x40\x5a" + size.to_bytes(4, "big")


def _misshapen(_frame: bytes, rng: Random) -> bytes:
    # A shape of 2 GB over a handful of bytes.
    shape = codec.encode([2**16, 2**15, rng.randint(1, 8)])
    return (
        b"\xa2"
        + codec.encode("header")
        + b"\xa0"
        + codec.encode("tensor")
        + b"\xd8\x28\x82"
        + shape
        + b"\xd8\x40\x41\x00"
    )


def _strange_tag(_frame: bytes, rng: Random) -> bytes:
    # A decimal fraction whose exponent alone would keep a core busy (tag 4), or a date (tag 0).
    return rng.choice([b"\xc4\x82\x1a\x7f\xff\xff\xff\x01", b"\xc0\x61\x30"])


def _no_header(_frame: bytes, _rng: Random) -> bytes:
    return codec.encode({"tensor": b""})


def _schema(_frame: bytes, rng: Random) -> bytes:
    import numpy as np

    version = rng.choice([0, 2, 2**40, "1", None])
    return codec.encode({"header": {"schema_version": version}, "tensor": np.zeros(2, np.uint8)})


_SPOILING: dict[Spoilt, Callable[[bytes, Random], bytes]] = {
    Spoilt.CUT: _cut,
    Spoilt.FLIPPED: _flipped,
    Spoilt.TRAILING: _trailing,
    Spoilt.NOISE: _noise,
    Spoilt.EMPTY: _empty,
    Spoilt.NESTED: _nested,
    Spoilt.CLAIMED: _claimed,
    Spoilt.MISSHAPEN: _misshapen,
    Spoilt.STRANGE_TAG: _strange_tag,
    Spoilt.NO_HEADER: _no_header,
    Spoilt.SCHEMA: _schema,
}
