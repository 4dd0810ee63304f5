"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """OK: as it should be. WARN: it works, look at it. FAIL: something does not work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """Attributes:
    check: a short name.
    says: one plain sentence: what was found and, unless it is ok, what to do.
    """

    check: str
    level: Level
    says: str


def ok(check: str, says: str) -> Finding:
    """As it should be."""
    return Finding(check, Level.OK, says)


def warn(check: str, says: str) -> Finding:
    """It works; look at it."""
    return Finding(check, Level.WARN, says)


def fail(check: str, says: str) -> Finding:
    """It does not work."""
    return Finding(check, Level.FAIL, says)
