"""/api/v1/devices and /api/v1/deployments: the fleet, and what is sent to it."""

from __future__ import annotations

import asyncio

from aiohttp import web

from cloud_service.api.cursors import name_cursor, name_in
from cloud_service.api.readable import readable
from cloud_service.api.resources import (
    DeploymentList,
    DeploymentQuery,
    DeploymentRequest,
    DeploymentView,
    DeviceList,
    DeviceQuery,
    DeviceView,
)
from cloud_service.api.routing import DOMAIN, Route, body, query
from cloud_service.errors import RequestInvalid
from cloud_service.fleet import KnownDevice
from cloud_service.rollouts.driver import DeploymentFilter
from cloud_service.storage.models import Deployment
from shared.messages import TaskState, Telemetry


async def list_devices(request: web.Request) -> DeviceList:
    """A page of the devices that were ever seen."""
    asked = query(request, DeviceQuery)
    after = name_in(asked.cursor) if asked.cursor is not None else None
    # One more than asked tells whether there is a next page.
    found = await request.app[DOMAIN].fleet.page(after=after, limit=asked.limit + 1)
    shown = found[: asked.limit]
    following = name_cursor(shown[-1].name) if len(found) > len(shown) else None
    return DeviceList(items=await asyncio.to_thread(lambda: [_device(one) for one in shown]), next=following)


async def get_device(request: web.Request) -> DeviceView:
    """One device."""
    return _device(await request.app[DOMAIN].fleet.device(request.match_info["device"]))


async def list_deployments(request: web.Request) -> DeploymentList:
    """What was sent where, and how it ended."""
    asked = query(request, DeploymentQuery)
    which = DeploymentFilter(task=asked.task, device=asked.device, version=asked.version)
    rows = await request.app[DOMAIN].rollouts.deployments(which, limit=asked.limit)
    return DeploymentList(items=[_deployment(row) for row in rows])


async def deploy(request: web.Request) -> DeploymentList:
    """Send a bundle to devices."""
    domain = request.app[DOMAIN]
    wanted = await body(request, DeploymentRequest)
    bundle = await domain.registry.get(wanted.task, wanted.version)
    devices = list(wanted.devices)
    if wanted.all:
        devices = list(await domain.fleet.running(wanted.task))
        if not devices:
            raise RequestInvalid(f"no device runs task {wanted.task!r}: name the devices that should")
    rows = await domain.rollouts.deploy(bundle, devices)
    return DeploymentList(items=[_deployment(row) for row in rows])


def _device(device: KnownDevice) -> DeviceView:
    tasks = {name: readable(TaskState, state) for name, state in device.tasks.items()}
    return DeviceView(
        name=device.name,
        online=device.online,
        agent_version=device.agent_version,
        first_seen=device.first_seen,
        last_seen=device.last_seen,
        tasks={name: state for name, state in tasks.items() if state is not None},
        telemetry=readable(Telemetry, device.telemetry),
    )


def _deployment(row: Deployment) -> DeploymentView:
    return DeploymentView(
        id=row.number,
        device=row.device,
        task=row.task,
        version=row.version,
        sha256=row.sha256,
        revision=row.revision,
        state=row.state,
        failure=row.failure,
        message=row.message,
        seconds=row.seconds,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )


ROUTES = [
    Route("GET", "/api/v1/devices", list_devices, "List devices", DeviceList, query=DeviceQuery, errors=(422,)),
    Route("GET", "/api/v1/devices/{device}", get_device, "Show a device", DeviceView, errors=(404,)),
    Route(
        "GET",
        "/api/v1/deployments",
        list_deployments,
        "List deployments",
        DeploymentList,
        query=DeploymentQuery,
        errors=(422,),
    ),
    Route(
        "POST",
        "/api/v1/deployments",
        deploy,
        "Send a model to devices",
        DeploymentList,
        status=201,
        body=DeploymentRequest,
        errors=(404, 409, 413, 422, 507),
    ),
]
