"""The device registry: who was seen, what they run, and their last telemetry; written in batches."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Connection, Text, cast, select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud_service.errors import NotFound, StoreError
from cloud_service.notices import Outage
from cloud_service.storage.database import Database, utc_now
from cloud_service.storage.models import Device
from shared.errors import StorageFull
from shared.messages import DeviceState, Telemetry

log = logging.getLogger(__name__)

# Rows are written at most this often; in between only the newest observation of a device counts.
_FLUSH_S = 0.3
# A device that only sends samples is noted again so much later: a row a sample would cost more than the sample.
_SEEN_AGAIN = timedelta(seconds=5)
# Devices read at once, so that nothing else has to wait for all of them.
_PAGE = 500


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """A device as it last described itself, in the order of `_COLUMNS`.

    Attributes:
        tasks, telemetry: as this service, or another version of it, has stored them; see `storage.models.Device`.
    """

    name: str
    online: bool
    agent_version: str
    tasks: dict[str, Any]
    telemetry: dict[str, Any] | None
    first_seen: datetime
    last_seen: datetime


_COLUMNS = (
    Device.name,
    Device.online,
    Device.agent_version,
    Device.tasks,
    Device.telemetry,
    Device.first_seen,
    Device.last_seen,
)


@dataclass(frozen=True, slots=True)
class Reporter:
    """A device and the last it reported, in the order of `_REPORT`.

    Attributes:
        report: its last telemetry as JSON text: ten thousand of them as dictionaries would keep the collector of
            garbage busy, and everything else waiting, for a tenth of a second.
    """

    name: str
    online: bool
    report: str | None
    first_seen: datetime
    last_seen: datetime

    def telemetry(self) -> dict[str, Any]:
        """The report as it was stored, by this or another version of the service; empty: there was none."""
        return json.loads(self.report or "null") or {}


_REPORT = (Device.name, Device.online, cast(Device.telemetry, Text), Device.first_seen, Device.last_seen)


@dataclass(slots=True)
class _Seen:
    at: datetime | None = None
    state: DeviceState | None = None
    telemetry: Telemetry | None = None


class Fleet:
    """Keeps the newest observation of each device and stores it soon after.

    Every replica reads every state and so writes the same rows; the order in which they do changes nothing.
    """

    def __init__(self, database: Database, *, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._now = now
        self._seen: dict[str, _Seen] = {}
        self._noted: dict[str, datetime] = {}
        self._online: dict[str, bool] = {}
        self._news = asyncio.Event()
        self._outage = Outage(log, "devices' states are stored again")

    def saw(self, device: str, observed: DeviceState | Telemetry | None = None) -> None:
        """Note that a device sent something, and what it said of itself."""
        now = self._now()
        if observed is None and device in self._noted and now - self._noted[device] < _SEEN_AGAIN:
            return
        seen = self._seen.setdefault(device, _Seen())
        match observed:
            case DeviceState():
                if observed.online != self._online.get(device):
                    log.info("device %s is %s", device, "online" if observed.online else "offline")
                self._online[device] = observed.online
                seen.state = observed
            case Telemetry():
                seen.telemetry = observed
        # A last will is the broker's word, not the device's.
        if not (isinstance(observed, DeviceState) and not observed.online):
            seen.at = self._noted[device] = now
        self._news.set()

    async def run(self) -> None:
        """Store observations until cancelled."""
        while True:
            await self._news.wait()
            await self.flush()
            await asyncio.sleep(_FLUSH_S)

    async def flush(self) -> None:
        """Store what was observed; what cannot be stored now is kept and tried again."""
        self._news.clear()
        seen, self._seen = self._seen, {}
        if not seen:
            return
        try:
            await self._store(seen)
        except (StorageFull, StoreError) as err:
            self._outage.begin(err)
            self._keep(seen)
        else:
            self._outage.end()

    def _keep(self, older: dict[str, _Seen]) -> None:
        """Put back what could not be stored, under what came since."""
        for device, old in older.items():
            new = self._seen.setdefault(device, _Seen())
            new.at, new.state, new.telemetry = new.at or old.at, new.state or old.state, new.telemetry or old.telemetry
        self._news.set()

    async def page(self, *, after: str | None = None, limit: int) -> list[KnownDevice]:
        """The first devices by name, or the first ones after a name."""
        where = [] if after is None else [Device.name > after]
        return await self._database.ask(partial(_known, where=where, limit=limit))

    async def reporters(self) -> list[Reporter]:
        """Every device, by name; one that comes up meanwhile may be missing."""
        found = page = await self._database.ask(partial(_reporters, after=""))
        while len(page) == _PAGE:
            page = await self._database.ask(partial(_reporters, after=page[-1].name))
            found += page
        return found

    async def device(self, name: str) -> KnownDevice:
        """One device.

        Raises:
            NotFound: none of that name was ever seen.
        """
        found = await self._database.ask(partial(_known, where=[Device.name == name], limit=1))
        if not found:
            raise NotFound(f"no device {name!r} was seen: list them with GET /api/v1/devices")
        return found[0]

    async def running(self, task: str) -> dict[str, str]:
        """The devices that run a task, by name, each with the sha256 of its bundle."""
        return await self._database.ask(partial(_running, task=task))

    async def _store(self, seen: dict[str, _Seen]) -> None:
        now = self._now()
        async with self._database.writing() as session:
            rows = await _rows(session, seen)
            new = [name for name in seen if name not in rows]
            if new:
                row = {"online": False, "agent_version": "", "tasks": {}, "first_seen": now, "last_seen": now}
                # Another replica may insert the same device at this moment.
                await self._database.insert_new(session, Device, [{"name": name, **row} for name in new])
                rows |= await _rows(session, new)
            for name, observed in seen.items():
                _update(rows[name], observed)


def _known(connection: Connection, *, where: Collection[ColumnElement[bool]], limit: int) -> list[KnownDevice]:
    query = select(*_COLUMNS).where(*where).order_by(Device.name).limit(limit)
    return [KnownDevice(*row) for row in connection.execute(query)]


def _reporters(connection: Connection, *, after: str) -> list[Reporter]:
    query = select(*_REPORT).where(Device.name > after).order_by(Device.name).limit(_PAGE)
    return [Reporter(*row) for row in connection.execute(query)]


def _running(connection: Connection, *, task: str) -> dict[str, str]:
    bundle = Device.tasks[(task, "bundle_sha256")].as_string()
    query = select(Device.name, bundle).where(bundle.is_not(None)).order_by(Device.name)
    return {row[0]: row[1] for row in connection.execute(query)}


async def _rows(session: AsyncSession, names: Collection[str]) -> dict[str, Device]:
    return {row.name: row for row in await session.scalars(select(Device).where(Device.name.in_(names)))}


def _update(row: Device, seen: _Seen) -> None:
    if seen.at is not None:
        row.last_seen = max(row.last_seen, seen.at)
    if seen.state is not None:
        row.online = seen.state.online
        if seen.state.online:
            row.agent_version = seen.state.agent_version
            row.tasks = {name: task.model_dump(mode="json") for name, task in seen.state.tasks.items()}
    if seen.telemetry is not None:
        row.telemetry = seen.telemetry.model_dump(mode="json")
