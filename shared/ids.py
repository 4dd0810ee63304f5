"""Sample and report ids: UUIDv7 (RFC 9562), so that ids sort by the time they were made."""

from __future__ import annotations

import os
import time
from uuid import UUID


def uuid7(unix_ms: int, random_bytes: bytes) -> UUID:
    """A version 7 UUID: 48 bits of Unix time in ms, then 74 random bits.

    Args:
        unix_ms: milliseconds since 1970, 0 to 2**48 - 1.
        random_bytes: exactly 10 bytes.
    """
    if not 0 <= unix_ms < 1 << 48 or len(random_bytes) != 10:
        raise ValueError("uuid7 takes a 48-bit time in ms and 10 random bytes")
    value = unix_ms << 80 | int.from_bytes(random_bytes, "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return UUID(int=value)


def new_id() -> UUID:
    """A fresh UUIDv7. A device without a clock still gets unique ids: 74 bits are random."""
    return uuid7(time.time_ns() // 1_000_000, os.urandom(10))
