"""Outcomes and corrections as JSON, the same for every sink that writes them, and which of them a sink is told."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any
from uuid import UUID

from edge_agent.outcomes import Correction, Outcome
from edge_agent.sinks.settings import Only
from shared.messages import Reason

Record = Outcome | Correction

_FIELDS = {kind: tuple(field.name for field in fields(kind)) for kind in (Outcome, Correction)}
_SURE = frozenset({Reason.CONFIDENT, Reason.AUDIT})


def kind_of(record: Record) -> str:
    """`outcome` or `correction`."""
    return "outcome" if isinstance(record, Outcome) else "correction"


def to_json(record: Record, *, origin: Mapping[str, str] | None = None) -> str:
    """One JSON object on one line: its kind, then `origin`, then the record's fields."""
    value: dict[str, Any] = {"kind": kind_of(record), **(origin or {})}
    for name in _FIELDS[type(record)]:
        value[name] = _plain(getattr(record, name))
    return json.dumps(value, separators=(",", ":"))


class Filter:
    """Lets through what `Only` asks for; thread-safe but for which of two simultaneous outcomes came last."""

    def __init__(self, only: Only) -> None:
        self._only = only
        self._last: dict[str, str] = {}

    def takes(self, record: Record) -> bool:
        """Whether this record is told."""
        match self._only:
            case Only.ALL:
                return True
            case Only.HARD:
                return isinstance(record, Correction) or record.reason not in _SURE
            case Only.CHANGED:
                return self._is_news(record)

    def _is_news(self, record: Record) -> bool:
        if isinstance(record, Correction):
            return not record.agreed
        before = self._last.get(record.task)
        self._last[record.task] = record.label
        return record.label != before


def _plain(value: object) -> object:
    if isinstance(value, UUID):
        return str(value)
    # JSON has no word for these, and half of its readers fail on Python's.
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
