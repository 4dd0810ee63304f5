"""The API over the cloud's parts, asked through aiohttp's test client; every answer is held against the document."""

import json
import re
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from cloud_service.api.app import ROUTES, build_app
from cloud_service.api.resources import Health, Problem
from cloud_service.api.routing import Domain, Route
from cloud_service.settings import HttpSettings


def health() -> Health:
    return Health(
        status="degraded", broker="down", version="0", site="demo", uptime_s=1.0, teachers={}, counts={}, faults={}
    )


class Api:
    """`await api(method, path, …)` → (status, body); what the route table promises is checked on the way."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.seen: set[tuple[str, str]] = set()

    async def __call__(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        async with self.client.request(method, path, **options) as response:
            content = await response.read()
        route = route_of(method, path.partition("?")[0])
        if response.status >= 400:
            assert response.content_type == "application/problem+json"
            problem = Problem.model_validate_json(content)
            assert problem.status == response.status
            assert problem.remedy
            if route is not None:
                assert response.status in (*route.errors, 500, 503), f"{method} {path} does not document it"
        else:
            assert route is not None
            self.seen.add((route.method, route.path))
            assert response.status == route.status
            if route.gives is not None:
                route.gives.model_validate_json(content)
        return response.status, json.loads(content)


def route_of(method: str, path: str) -> Route | None:
    for route in ROUTES:
        if route.method == method and re.fullmatch(re.sub(r"{\w+}", "[^/]+", route.path), path):
            return route
    return None


@pytest.fixture
async def api(digits_task, fleet, registry, rollouts, samples, jobs, estimator):
    # An archive takes 30 tensors of 8 × 8 bytes.
    limits = {"max_body_bytes": 2_000, "max_import_bytes": 200_000, "max_model_bytes": 200_000}
    settings = HttpSettings(**limits, max_export_bytes=30 * 64)
    domain = Domain(settings, {"digits": digits_task}, health, fleet, registry, rollouts, samples, jobs, estimator)
    async with TestClient(TestServer(build_app(domain))) as client:
        yield Api(client)
