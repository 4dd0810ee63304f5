"""Ships bundles: what each device should run, persisted first, then published retained; reports settle how it ended."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cloud_service.downlink import Downlink
from cloud_service.errors import Conflict, RequestInvalid
from cloud_service.storage.database import Database, utc_now
from cloud_service.storage.models import Bundle, Deployment, DeploymentState, Device
from shared.errors import ConnectionLost
from shared.messages import BundleReference, Desired, DeviceState, Report, Target, UpdateOutcome
from shared.topics import Channel, is_name

log = logging.getLogger(__name__)

# Retained messages published at once when the broker comes back.
_CONCURRENT = 50


@dataclass(frozen=True, slots=True)
class DeploymentFilter:
    """Which deployments are meant; None: any."""

    task: str | None = None
    device: str | None = None
    version: str | None = None


class Rollouts:
    """Deploys bundles to devices.

    Args:
        public_url: the service's HTTP address as devices reach it.
    """

    def __init__(
        self, database: Database, downlink: Downlink, *, public_url: str, now: Callable[[], datetime] = utc_now
    ) -> None:
        self._database = database
        self._downlink = downlink
        self._public_url = public_url.rstrip("/")
        self._now = now
        # What is read last is published last, or a retained message could be older than the database.
        self._publishing = asyncio.Lock()

    async def deploy(self, bundle: Bundle, devices: Sequence[str]) -> list[Deployment]:
        """Make the bundle what these devices should run for its task; other tasks keep their targets.

        Raises:
            Conflict: the bundle did not pass its gate.
            RequestInvalid: no device, or a name that cannot be a device's.
        """
        if not bundle.shippable:
            raise Conflict(f"{bundle.task} {bundle.version} did not pass its gate: it is kept to look at, not shipped")
        wrong = [name for name in devices if not is_name(name)]
        if wrong or not devices:
            named = f"{wrong[0]!r} cannot be a device's name" if wrong else "no device is named"
            raise RequestInvalid(f"{named}: name devices that GET /api/v1/devices lists, or say all")
        async with self._database.writing() as session:
            rows = [await self._deployment(session, bundle, device) for device in dict.fromkeys(devices)]
            await session.flush()
        log.info("task %s: version %s goes to %d device(s)", bundle.task, bundle.version, len(rows))
        await self.publish([row.device for row in rows])
        return rows

    async def publish(self, devices: Sequence[str] | None = None) -> None:
        """Publish what devices should run, all of them by default; the next connection does it, too.

        Read again until nothing has changed meanwhile: another replica may have published something newer in between,
        and what is published last is what stays retained.
        """
        said: dict[str, Desired] = {}
        async with self._publishing:
            while pending := [(d, m) for d, m in (await self._wanted(devices)).items() if said.get(d) != m]:
                try:
                    for at in range(0, len(pending), _CONCURRENT):
                        part = pending[at : at + _CONCURRENT]
                        sending = (self._downlink.send(d, Channel.DESIRED, m, retain=True) for d, m in part)
                        await asyncio.gather(*sending)
                except ConnectionLost as err:
                    log.debug("what devices should run is not published yet: %s", err)
                    return
                said |= dict(pending)

    async def _wanted(self, devices: Sequence[str] | None) -> Mapping[str, Desired]:
        async with self._database.reading() as session:
            return await _desired(session, devices, self._reference)

    async def settle(self, device: str, report: Report) -> bool:
        """Store how an update ended; a repeated report changes nothing. False: nothing of the kind was deployed.

        Raises:
            StorageFull, StoreError: it is not stored; the device reports again.
        """
        which = (
            Deployment.device == device,
            Deployment.task == report.task,
            Deployment.sha256 == report.bundle_sha256,
        )
        newest = select(Deployment).where(*which).order_by(Deployment.number.desc()).limit(1)
        activated = report.outcome is UpdateOutcome.ACTIVATED
        state = DeploymentState.ACTIVATED if activated else DeploymentState.FAILED
        async with self._database.reading() as session:
            known = await session.scalar(newest)
        if known is None:
            return False
        if known.state == state and known.seconds is not None:
            return True
        async with self._database.writing() as session:
            row = (await session.scalars(newest)).one()
            # Where the device's state was first, its time stands.
            row.finished_at = row.finished_at if row.state == state and row.finished_at else self._now()
            row.state, row.failure, row.message = state.value, report.failure.value, report.message
            row.seconds = report.seconds
        detail = "" if activated else f": {report.failure.value}: {report.message}"
        level = logging.INFO if activated else logging.WARNING
        log.log(level, "device %s: %s %s %s%s", device, report.task, report.version, state.value, detail)
        return True

    async def observe(self, device: str, state: DeviceState) -> None:
        """Settle what waits for a device that says it runs the bundle already: its report may be lost, or never come.

        Raises:
            StorageFull, StoreError: it is not stored; the device's next state does it.
        """
        runs = [
            and_(Deployment.task == task, Deployment.sha256 == running.bundle_sha256)
            for task, running in state.tasks.items()
        ]
        if not runs:
            return
        which = (Deployment.device == device, Deployment.state == DeploymentState.PENDING.value, or_(*runs))
        async with self._database.reading() as session:
            waiting = list(await session.scalars(select(Deployment).where(*which)))
        if not waiting:
            return
        settled = {"state": DeploymentState.ACTIVATED.value, "message": "its state says that it runs this"}
        async with self._database.writing() as session:
            await session.execute(update(Deployment).where(*which).values(**settled, finished_at=self._now()))
        for row in waiting:
            log.info("device %s: %s %s activated, as its state says", device, row.task, row.version)

    async def deployments(self, which: DeploymentFilter, *, limit: int = 1_000) -> list[Deployment]:
        """Newest first."""
        pairs = (
            (Deployment.task, which.task),
            (Deployment.device, which.device),
            (Deployment.version, which.version),
        )
        where = [column == value for column, value in pairs if value is not None]
        query = select(Deployment).where(*where).order_by(Deployment.number.desc()).limit(limit)
        async with self._database.reading() as session:
            return list(await session.scalars(query))

    async def _deployment(self, session: AsyncSession, bundle: Bundle, device: str) -> Deployment:
        same = (Deployment.device == device, Deployment.task == bundle.task)
        pending = Deployment.state == DeploymentState.PENDING.value
        await session.execute(
            update(Deployment).where(*same, pending).values(state=DeploymentState.SUPERSEDED, finished_at=self._now())
        )
        revision = await session.scalar(select(func.max(Deployment.revision)).where(Deployment.device == device))
        known = await session.get(Device, device)
        running = bool(known and known.tasks.get(bundle.task, {}).get("bundle_sha256") == bundle.sha256)
        row = Deployment(
            device=device,
            task=bundle.task,
            version=bundle.version,
            sha256=bundle.sha256,
            size_bytes=bundle.size_bytes,
            revision=(revision or 0) + 1,
            state=(DeploymentState.ACTIVATED if running else DeploymentState.PENDING).value,
            failure="",
            message="it ran this already" if running else "",
            created_at=self._now(),
            finished_at=self._now() if running else None,
        )
        session.add(row)
        return row

    def _reference(self, row: Deployment) -> BundleReference:
        # Devices have no token of the API; this address is open to whoever was told the hash.
        url = f"{self._public_url}/bundles/{row.sha256}"
        return BundleReference(version=row.version, url=url, sha256=row.sha256, size_bytes=row.size_bytes)


async def _desired(
    session: AsyncSession, devices: Sequence[str] | None, reference: Callable[[Deployment], BundleReference]
) -> Mapping[str, Desired]:
    """Each device's newest deployment of each task, as the message that says so."""
    where: list[ColumnElement[bool]] = [] if devices is None else [Deployment.device.in_(devices)]
    newest = select(func.max(Deployment.number)).where(*where).group_by(Deployment.device, Deployment.task)
    rows = await session.scalars(select(Deployment).where(Deployment.number.in_(newest)).order_by(Deployment.number))
    targets: defaultdict[str, dict[str, Target]] = defaultdict(dict)
    revisions: dict[str, int] = {}
    for row in rows:
        targets[row.device][row.task] = Target(bundle=reference(row))
        revisions[row.device] = max(revisions.get(row.device, 0), row.revision)
    return {device: Desired(revision=revisions[device], tasks=tasks) for device, tasks in targets.items()}
