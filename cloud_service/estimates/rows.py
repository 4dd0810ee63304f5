"""Reads from the sample store what the estimates need: sums over a period, and the newest scores in order."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Float, case, func, literal, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from cloud_service.estimates.evidence import Tally
from cloud_service.estimates.stream import Scored
from cloud_service.storage.database import Database
from cloud_service.storage.models import Sample
from shared.messages import Reason

_AUDIT = Sample.reason == Reason.AUDIT.value


class Rows:
    """Each method raises `StoreError` when the database failed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def tallies(self, task: str, *, since: datetime, in_time_s: float | None) -> list[Tally]:
        """The task's samples that were stored since then, counted by what tells them apart."""
        first = await self._first_since(task, since)
        weight = 1.0 / Sample.inclusion_probability
        keys: tuple[ColumnElement[Any], ...] = (
            Sample.device.expression,
            case((_AUDIT, 1), else_=0),
            _same(Sample.prediction, Sample.label),
            _in_time(in_time_s),
            _same(Sample.prediction, Sample.human_label),
            _same(Sample.label, Sample.human_label),
        )
        columns = [key.label(f"key{number}") for number, key in enumerate(keys)]
        sums = (func.count(), func.sum(weight), func.sum(weight * weight))
        where = (Sample.task == task, Sample.number >= first, Sample.stored_at >= since)
        query = select(*columns, *sums).where(*where).group_by(*(column.name for column in columns))
        async with self._database.reading() as session:
            return [_tally(row) for row in await session.execute(query)]

    async def scored(self, task: str, *, after: int, until: datetime, limit: int) -> list[Scored]:
        """The task's samples in the store's order, after number `after` and before the first stored after `until`."""
        query = select(
            Sample.number,
            Sample.id,
            Sample.device,
            Sample.bundle_version,
            Sample.hardness,
            _AUDIT,
            Sample.inclusion_probability,
            _same(Sample.prediction, Sample.label),
            Sample.stored_at,
        )
        query = query.where(Sample.task == task, Sample.number > after).order_by(Sample.number).limit(limit)
        found: list[Scored] = []
        async with self._database.reading() as session:
            for number, id_, device, version, score, audit, chance, agreed, stored_at in await session.execute(query):
                if stored_at > until:
                    break
                found.append(Scored(number, id_, device, task, version, score, bool(audit), chance, _truth(agreed)))
        return found

    async def newest(self, task: str, *, back: int) -> tuple[int, int]:
        """Numbers of the task's newest sample and of the one `back` before it; 0 where there is none."""
        query = select(Sample.number).where(Sample.task == task).order_by(Sample.number.desc()).limit(1)
        async with self._database.reading() as session:
            last = await session.scalar(query)
            earlier = await session.scalar(query.offset(back))
        return last or 0, earlier or 0

    async def _first_since(self, task: str, since: datetime) -> int:
        """The smallest number from which on every sample is younger, halving: there is no index over time."""
        low, high = 0, (await self.newest(task, back=0))[0] + 1
        async with self._database.reading() as session:
            while low < high:
                middle = (low + high) // 2
                query = select(Sample.number, Sample.stored_at).where(Sample.task == task, Sample.number >= middle)
                row = (await session.execute(query.order_by(Sample.number).limit(1))).first()
                if row is None or row[1] >= since:
                    high = middle
                else:
                    low = row[0] + 1
        return low


class _seconds_between(FunctionElement[float]):  # noqa: N801  # a function of SQL
    """From the first time to the second; databases count it in ways of their own."""

    type = Float()
    inherit_cache = True


@compiles(_seconds_between, "sqlite")
def _sqlite(element: _seconds_between, compiler: Any, **given: Any) -> str:
    first, second = (compiler.process(clause, **given) for clause in element.clauses)
    return f"((julianday({second}) - julianday({first})) * 86400.0)"


@compiles(_seconds_between, "postgresql")
def _postgresql(element: _seconds_between, compiler: Any, **given: Any) -> str:
    first, second = (compiler.process(clause, **given) for clause in element.clauses)
    return f"extract(epoch from ({second} - {first}))"


def _in_time(limit_s: float | None) -> ColumnElement[int]:
    if limit_s is None:
        return case((Sample.label.is_not(None), 1), else_=0)
    return case((_seconds_between(Sample.stored_at, Sample.answered_at) <= literal(limit_s), 1), else_=0)


def _same(one: Any, other: Any) -> ColumnElement[int | None]:
    """1 or 0, or NULL where either is NULL."""
    return case((one == other, 1), (one != other, 0))


def _truth(value: int | None) -> bool | None:
    return None if value is None else bool(value)


def _tally(row: Sequence[Any]) -> Tally:
    device, audit, agreed, in_time, edge, teacher, count, weight, squares = row
    return Tally(
        device=device,
        audit=bool(audit),
        agreed=_truth(agreed),
        in_time=bool(in_time),
        edge_right=_truth(edge),
        teacher_right=_truth(teacher),
        count=int(count),
        weight=float(weight),
        squares=float(squares),
    )
