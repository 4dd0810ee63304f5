"""/api/v1/devices and /api/v1/deployments: the fleet, and what is sent to it."""

from __future__ import annotations

from aiohttp import web

from cloud_service.api.resources import (
    DeploymentList,
    DeploymentQuery,
    DeploymentRequest,
    DeploymentView,
    DeviceList,
    DeviceView,
)
from cloud_service.api.routing import DOMAIN, Route, body, query
from cloud_service.errors import RequestInvalid
from cloud_service.rollouts.driver import DeploymentFilter
from cloud_service.storage.models import Deployment, Device


async def list_devices(request: web.Request) -> DeviceList:
    """Every device that was ever seen."""
    return DeviceList(items=[_device(row) for row in await request.app[DOMAIN].fleet.devices()])


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
        devices = await domain.fleet.running(wanted.task)
        if not devices:
            raise RequestInvalid(f"no device runs task {wanted.task!r}: name the devices that should")
    rows = await domain.rollouts.deploy(bundle, devices)
    return DeploymentList(items=[_deployment(row) for row in rows])


def _device(row: Device) -> DeviceView:
    return DeviceView.model_validate(
        {
            "name": row.name,
            "online": row.online,
            "agent_version": row.agent_version,
            "first_seen": row.first_seen,
            "last_seen": row.last_seen,
            "tasks": row.tasks,
            "telemetry": row.telemetry,
        }
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
    Route("GET", "/api/v1/devices", list_devices, "List devices", DeviceList),
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
