"""Whether this machine's processor saturates where int8 products are added."""

from __future__ import annotations

import logging
from pathlib import Path

from cloud_service.tasks.compression import Choice

log = logging.getLogger(__name__)

_CPUINFO = Path("/proc/cpuinfo")


def saturates(flags: frozenset[str]) -> bool:
    """Whether a processor with these flags adds uint8 × int8 products in 16 bits, with saturation (vpmaddubsw).

    x86 without VNNI does; VNNI adds in 32 bits, and so do Arm's instructions.
    """
    x86 = bool(flags & {"sse2", "sse4_1", "avx", "avx2"})
    return x86 and not flags & {"avx512_vnni", "avx_vnni"}


def wants_seven_bits(choice: Choice, *, cpuinfo: Path = _CPUINFO) -> bool:
    """The choice; `auto` by this machine's own processor, and yes where its kind cannot be read."""
    if choice is not Choice.AUTO:
        return choice is Choice.ALWAYS
    try:
        text = cpuinfo.read_text()
    except OSError:
        log.info("cannot read %s: int8 weights get 7 bits, which every processor adds right", cpuinfo)
        return True
    return saturates(read_flags(text))


def read_flags(text: str) -> frozenset[str]:
    """The first processor's features in the text of /proc/cpuinfo."""
    for line in text.splitlines():
        key, _, values = line.partition(":")
        if key.strip().lower() in {"flags", "features"}:
            return frozenset(values.split())
    return frozenset()
