"""The composition root of the cloud service: which parts there are, how they are wired, and how they end.

    devices ══ MQTT ══► Ingest ─► SampleStore ─► Teacher ─► SampleStore ─► Downlink ══► devices
                          │           │          samples ─► Jobs ═ child process ═► candidate bundle
                          │           └─► Retention; Estimator ─► estimates, incidents
                          └─► Fleet, reports ─► Rollouts ◄──── deploy ──── Registry ◄──────┘
    people, scripts ══ HTTP ══► api: reads and drives all of them

Any number of these run side by side on one broker and one database; what must not be done twice, the Leader among
them does. Only this module constructs. Every task is named and lives in one TaskGroup: if one fails, the service ends
with its error rather than limp.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from cloud_service.api.app import serve_http
from cloud_service.api.resources import Health
from cloud_service.api.routing import Domain
from cloud_service.downlink import Downlink
from cloud_service.estimates.estimator import Estimator
from cloud_service.estimates.incidents import Incidents
from cloud_service.estimates.rows import Rows
from cloud_service.fleet import Fleet
from cloud_service.ingest import Ingest, Parts
from cloud_service.instances import own_name
from cloud_service.leader import Leader
from cloud_service.registry.bundles import Registry
from cloud_service.rollouts.driver import Rollouts
from cloud_service.settings import CloudSettings
from cloud_service.storage.blobs import ObjectBlobs
from cloud_service.storage.database import Database, open_database
from cloud_service.storage.retention import Retention
from cloud_service.storage.samples import SampleStore
from cloud_service.teacher.loading import load_model
from cloud_service.teacher.worker import Teacher
from cloud_service.training.job_table import JobTable
from cloud_service.training.job_work import JobParts
from cloud_service.training.jobs import Jobs
from cloud_service.training.sightings import Sightings
from shared import __version__, mqtt
from shared.errors import SettingsError

log = logging.getLogger(__name__)

T = TypeVar("T")


async def serve(settings: CloudSettings) -> None:
    """Run the service until SIGTERM or SIGINT, then answer what is under way and end.

    Raises:
        EdgeloopError: something it needs at the start is missing or broken; a missing broker is not among that.
    """
    _make_folder(settings.data_dir)
    stop = _stop_signal()
    terms = {name: task.terms for name, task in settings.tasks.items()}
    teachers = await _unless_stopped(_load_teachers(settings), stop)
    if teachers is None:
        log.info("stopped before the teachers were ready")
        return
    async with (
        open_database(settings.database_url, connections=settings.database.connections) as database,
        AsyncExitStack() as stack,
    ):
        instance = stack.enter_context(own_name(settings.data_dir, settings.ingest.instance))
        downlink = Downlink(settings.site)
        samples = _sample_store(settings, database)
        retention = Retention(samples, {name: task.retention.rules for name, task in settings.tasks.items()})
        fleet = Fleet(database)
        registry = Registry(database, settings.data_dir / "bundles", tasks=settings.tasks)
        rollouts = Rollouts(database, downlink, public_url=settings.http.base_url)
        estimator = _estimator(settings, database, fleet)
        job_table = JobTable(database)
        sightings = Sightings(database, job_table, samples, estimator, period_s=settings.estimates.period_s)
        training = JobParts(job_table, samples, registry, rollouts, fleet, sightings)
        jobs = Jobs(
            training, tasks=settings.tasks, folder=settings.data_dir / "jobs", settings=settings.jobs, instance=instance
        )
        connect = mqtt.connector(settings.broker)
        top_k = {name: task.verdict_top_k for name, task in settings.tasks.items()}
        parts_of_ingest = Parts(terms, teachers, samples, fleet, rollouts, downlink, top_k)
        ingest = Ingest(parts_of_ingest, settings.ingest, connect=connect, site=settings.site, instance=instance)
        leader = Leader(database, settings.database_url)
        health = _health(settings, ingest, downlink, teachers)
        domain = Domain(
            settings.http,
            settings.tasks,
            health,
            fleet,
            registry,
            rollouts,
            samples,
            jobs,
            estimator,
            ingest.latencies,
        )

        async with serve_http(domain) as address, asyncio.TaskGroup() as group:
            parts = {f"teacher-{name}": teacher.run() for name, teacher in teachers.items()}
            parts |= {"ingest": ingest.run(), "fleet": fleet.run(), "estimates": estimator.run()}
            once = {"jobs": jobs.run, "orphans": ingest.orphans.run, "retention": retention.run}
            parts |= {"leader": leader.run(once)}
            parts["mqtt"] = mqtt.keep_connected(
                connect,
                ingest.identity,
                ingest.session,
                settings=settings.broker,
                rng=Random(),  # noqa: S311  # spreads reconnects
            )
            tasks = [group.create_task(part, name=name) for name, part in parts.items()]
            log.info("edgeloop %s serves site %s on %s", __version__, settings.site, address)
            await stop.wait()
            log.info("stopping: answering what is under way, at most %g s", settings.drain_s)
            with suppress(TimeoutError):
                await asyncio.wait_for(ingest.drain(), settings.drain_s)
            for task in tasks:
                task.cancel()
        await fleet.flush()
    log.info("stopped")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise SettingsError(
            f"cannot make the folder {folder}: {err.strerror}; let the service's user write there, or set data_dir to "
            "a folder where it may"
        ) from err


def _stop_signal() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _unless_stopped(work: Coroutine[Any, Any, T], stop: asyncio.Event) -> T | None:
    """What the work gives; None: it was stopped before."""
    working, stopping = asyncio.create_task(work, name="start"), asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


async def _load_teachers(settings: CloudSettings) -> dict[str, Teacher]:
    teachers = {}
    for name, task in settings.tasks.items():
        model = await load_model(task, folder=settings.data_dir / "teachers")
        teachers[name] = Teacher(model, task=name, max_waiting=2 * settings.ingest.max_under_way)
    return teachers


def _sample_store(settings: CloudSettings, database: Database) -> SampleStore:
    limits = {name: task.retention.near_duplicate for name, task in settings.tasks.items()}
    near = {name: distance for name, distance in limits.items() if distance is not None}
    return SampleStore(database, ObjectBlobs(settings.blobs_url), near_duplicates=near)


def _estimator(settings: CloudSettings, database: Database, fleet: Fleet) -> Estimator:
    goals = {name: task.training.agreement_goal for name, task in settings.tasks.items()}
    return Estimator(Rows(database), fleet, Incidents(database), agreement_goals=goals, settings=settings.estimates)


def _health(
    settings: CloudSettings, ingest: Ingest, downlink: Downlink, teachers: Mapping[str, Teacher]
) -> Callable[[], Health]:
    started = time.monotonic()

    def health() -> Health:
        return Health(
            status="ok" if downlink.connected else "degraded",
            broker="up" if downlink.connected else "down",
            version=__version__,
            site=settings.site,
            uptime_s=time.monotonic() - started,
            teachers={name: teacher.version for name, teacher in teachers.items()},
            counts=asdict(ingest.counts),
            faults=dict(ingest.faults),
            waiting={"storage": ingest.waiting} | {f"teacher-{name}": t.waiting for name, t in teachers.items()},
        )

    return health
