"""Makes the estimates anew every so often, and walks each device's stream for drift; restarts from the store."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from cloud_service.errors import StoreError
from cloud_service.estimates import detectors
from cloud_service.estimates.composition import Composition, Reports
from cloud_service.estimates.drift import Alarm, Closed, Detectors, Opened
from cloud_service.estimates.estimate import Estimate, Expectations, estimates
from cloud_service.estimates.incidents import Incidents
from cloud_service.estimates.rows import Rows
from cloud_service.estimates.settings import EstimatesSettings
from cloud_service.estimates.watching import Watching
from cloud_service.fleet import Fleet, Reporter
from cloud_service.notices import Outage
from cloud_service.storage.database import utc_now
from shared.errors import SettingsError, StorageFull
from shared.messages import TaskCounts

log = logging.getLogger(__name__)

# Scores read at once.
_PAGE = 2_000


@dataclass(frozen=True, slots=True)
class Stream:
    """How one watched stream stands.

    Attributes:
        samples: in the stream since its model came.
        alarms: detectors that have spoken lately.
        is_open: there is an incident.
    """

    task: str
    device: str
    samples: int
    alarms: frozenset[Alarm]
    is_open: bool


@dataclass(frozen=True, slots=True)
class Current:
    """What the last pass found; `at` None: there was none yet.

    Attributes:
        online, offline: devices.
    """

    at: datetime | None = None
    online: int = 0
    offline: int = 0
    estimates: tuple[Estimate, ...] = ()
    streams: tuple[Stream, ...] = ()


class Estimator:
    """Every replica runs one; they read the same store and come to the same result.

    Args:
        agreement_goals: of each task.
        load_detectors: gives what makes a fresh pair; called once, in a thread, when there is an audit.

    Attributes:
        current: what the last pass found.
        metrics_devices: as in the settings.
    """

    def __init__(
        self,
        rows: Rows,
        fleet: Fleet,
        incidents: Incidents,
        *,
        agreement_goals: Mapping[str, float],
        settings: EstimatesSettings,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        load_detectors: Callable[[], Callable[[], Detectors]] = detectors.load,
    ) -> None:
        self.current = Current()
        self.incidents = incidents
        self.metrics_devices = settings.metrics_devices
        self._rows, self._fleet, self._settings = rows, fleet, settings
        self._goals = dict(agreement_goals)
        self._now, self._sleep, self._load = now, sleep, load_detectors
        self._outage = Outage(log, "estimates are made again")
        self._reports: dict[tuple[str, str], Reports] = {}
        self._arrivals: dict[str, tuple[object, datetime]] = {}
        self._unread: set[str] = set()
        self._crowded: set[str] = set()
        self._pending: deque[tuple[str, str, Opened | Closed]] = deque()
        self._made_by: Callable[[], Detectors] | None = None
        limit, watched = settings.watched_streams, self._goals if settings.drift else {}
        self._watching = {task: Watching(self._detectors, goal=goal, limit=limit) for task, goal in watched.items()}

    async def run(self) -> None:
        """Work until cancelled; what the database cannot give now is read the next time."""
        while True:
            try:
                await self.refresh()
            except (StorageFull, StoreError) as err:
                self._outage.begin(f"no new estimates: {err}")
            else:
                self._outage.end()
            await self._sleep(self._settings.every_s)

    async def refresh(self) -> None:
        """One pass.

        Raises:
            StoreError, StorageFull: the database failed; the next pass takes up where this one was.
        """
        now = self._now()
        devices = await self._fleet.reporters()
        found: list[Estimate] = []
        for task, goal in self._goals.items():
            found += await self._estimated(task, goal, devices, now)
        await self._watch(now)
        watching = self._watching.items()
        streams = tuple(Stream(task, *stream) for task, watched in watching for stream in watched.streams())
        online = sum(device.online for device in devices)
        self.current = Current(now, online, len(devices) - online, tuple(found), streams)

    async def _estimated(self, task: str, goal: float, devices: Sequence[Reporter], now: datetime) -> list[Estimate]:
        settings = self._settings
        since = now - timedelta(seconds=settings.period_s)
        tallies = await self._rows.tallies(task, since=since, in_time_s=settings.corrected_within_s)
        expected = Expectations(agreement=goal, teacher_accuracy=settings.teacher_accuracy)

        def compute() -> list[Estimate]:
            told = {device.name: self._composition(task, device, since=since, until=now) for device in devices}
            compositions = {name: composition for name, composition in told.items() if composition is not None}
            return estimates(task, tallies, compositions, expected)

        return await asyncio.to_thread(compute)

    def _composition(self, task: str, device: Reporter, *, since: datetime, until: datetime) -> Composition | None:
        """What became of a device's samples, as far as its telemetry tells."""
        telemetry = device.telemetry()
        counts = telemetry.get("tasks", {}).get(task)
        if counts is None:
            return None
        try:
            told = TaskCounts.model_validate(counts)
        except ValidationError as err:
            self._say_unread(task, device.name, err)
            return None
        begun = max(since, device.first_seen)
        reports = self._reports.setdefault((task, device.name), Reports())
        reports.add(self._arrival(device, telemetry), told, since=begun)
        return reports.composition(since=begun, until=until)

    def _arrival(self, device: Reporter, telemetry: Mapping[str, Any]) -> datetime:
        """When a device's telemetry came, within a pass: its samples alone move `last_seen` on, not the report."""
        which = [telemetry.get(name) for name in ("seq", "uptime_s")]
        known = self._arrivals.get(device.name)
        if known is None or known[0] != which:
            known = self._arrivals[device.name] = (which, device.last_seen)
        return known[1]

    def _say_unread(self, task: str, device: str, err: ValidationError) -> None:
        if task not in self._unread:
            self._unread.add(task)
            log.warning(
                "task %s: telemetry of device %s, and perhaps of others, cannot be read; what such devices kept is "
                "estimated from their audits until they report again: did another version of the service store it? %s",
                task, device, err.errors()[0]["msg"],
            )  # fmt: skip

    async def _watch(self, now: datetime) -> None:
        until = now - timedelta(seconds=self._settings.settle_s)
        try:
            for task, watching in self._watching.items():
                await self._follow(task, watching, until)
        except SettingsError as err:
            log.error("drift is not watched: %s", err)
            self._watching = {}

    def _detectors(self) -> Detectors:
        """A fresh pair. Loaded with the first audit there is, by the thread that observes it: they are large."""
        if self._made_by is None:
            self._made_by = self._load()
        return self._made_by()

    async def _follow(self, task: str, watching: Watching, until: datetime) -> None:
        """Walk the task's scores from where the last pass stopped."""
        if watching.position is None:
            await self._replay(task, watching, until)
        await self._note()
        while found := await self._rows.scored(task, after=watching.position or 0, until=until, limit=_PAGE):
            changes = await asyncio.to_thread(watching.observe, found)
            watching.position = found[-1].number
            self._pending += [(task, device, change) for device, change in changes]
            await self._note()
        if watching.unwatched and task not in self._crowded:
            self._crowded.add(task)
            log.warning("task %s: not all devices are watched for drift: raise [estimates] watched_streams", task)

    async def _note(self) -> None:
        """Write down what began and ended; what cannot be written now stays in the queue."""
        while self._pending:
            task, device, change = self._pending[0]
            match change:
                case Opened(evidence):
                    await self.incidents.begin(task, device, evidence)
                case Closed(reason):
                    await self.incidents.end(task, device, reason)
            self._pending.popleft()

    async def _replay(self, task: str, watching: Watching, until: datetime) -> None:
        """Feed the detectors what they knew before the service stopped; only what stands in the end is noted."""
        last, position = await self._rows.newest(task, back=self._settings.replay_samples)
        while position < last:
            found = await self._rows.scored(task, after=position, until=until, limit=_PAGE)
            if not found:
                break
            await asyncio.to_thread(watching.observe, found)
            position = found[-1].number
        watching.position = position
        self._pending += [(task, device, Opened(evidence)) for device, evidence in watching.standing().items()]
