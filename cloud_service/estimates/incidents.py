"""The incidents' table: what was noticed, when it began and ended; one open incident a task and device."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime

from sqlalchemy import select, update

from cloud_service.estimates.drift import Evidence, sentence
from cloud_service.storage.database import Database, utc_now
from cloud_service.storage.models import Incident

log = logging.getLogger(__name__)


class Incidents:
    """Each method raises `StoreError`, or `StorageFull` where it writes, when the database failed."""

    def __init__(self, database: Database, *, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._now = now

    async def begin(self, task: str, device: str, evidence: Evidence) -> None:
        """Note it and log it, unless it is open already: another replica was first, or this service before it died."""
        row = {
            "task": task,
            "device": device,
            "open_key": _key(task, device),
            "sentence": sentence(task, device, evidence),
            "evidence": asdict(evidence),
            "opened_at": self._now(),
        }
        insert = self._database.insert_or_skip(Incident).returning(Incident.number)
        async with self._database.writing() as session:
            number = (await session.execute(insert, [row])).scalar_one_or_none()
        if number is not None:
            log.warning("incident %d: %s", number, row["sentence"])

    async def end(self, task: str, device: str, reason: str) -> None:
        """Note and log that it is over, if it is open."""
        ended = (
            update(Incident)
            .where(Incident.open_key == _key(task, device))
            .values(open_key=None, closed_at=self._now(), closed_because=reason)
            .returning(Incident.number)
        )
        async with self._database.writing() as session:
            number = (await session.execute(ended)).scalar_one_or_none()
        if number is not None:
            log.info("incident %d of device %s, task %s, is over: %s", number, device, task, reason)

    async def all(
        self, *, task: str | None = None, device: str | None = None, is_open: bool | None = None, limit: int
    ) -> list[Incident]:
        """Newest first."""
        query = select(Incident).order_by(Incident.number.desc()).limit(limit)
        if task is not None:
            query = query.where(Incident.task == task)
        if device is not None:
            query = query.where(Incident.device == device)
        if is_open is not None:
            query = query.where(Incident.closed_at.is_(None) if is_open else Incident.closed_at.is_not(None))
        async with self._database.reading() as session:
            return list(await session.scalars(query))


def _key(task: str, device: str) -> str:
    # Names have no slash.
    return f"{task}/{device}"
