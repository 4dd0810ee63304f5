"""An API with tokens: shut without one, but for what devices and watchdogs need."""

import logging

import pytest
from aiohttp.test_utils import TestClient, TestServer

from cloud_service.api.app import ROUTES, build_app, serve_http
from cloud_service.api.login import is_loopback
from cloud_service.api.routing import Domain
from cloud_service.settings import HttpSettings
from cloud_service.tokens import Tokens
from tests.sim.bundles import make
from tests.unit.cloud_service.api.conftest import health

TOKEN, OTHER = "first-" * 7, "other-" * 7
OPEN = {"/healthz", "/bundles/{sha256}"}


@pytest.fixture
def domain(digits_task, fleet, registry, rollouts, samples, jobs, estimator):
    def over(settings: HttpSettings) -> Domain:
        return Domain(settings, {"digits": digits_task}, health, fleet, registry, rollouts, samples, jobs, estimator)

    return over


@pytest.fixture
async def shut(domain):
    async with TestClient(TestServer(build_app(domain(HttpSettings()), Tokens([TOKEN, OTHER])))) as client:
        yield client


async def test_every_route_but_two_wants_a_token(shut):
    assert {route.path for route in ROUTES if route.is_open} == OPEN
    for route in ROUTES:
        path = route.path.format(**dict.fromkeys(("device", "task", "version", "sample", "job", "sha256"), "x"))
        async with shut.request(route.method, path) as response:
            assert (response.status == 401) == (route.path not in OPEN), route.path
    async with shut.get("/nothing/is/here") as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
        problem = await response.json()
        assert (problem["status"], "Authorization: Bearer" in problem["remedy"]) == (401, True)


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {OTHER}", 200),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Bearer {TOKEN}{OTHER}", 401),
        ("Bearer", 401),
        ("", 401),
        (f"Basic {TOKEN}", 401),
        (TOKEN, 401),
    ],
)
async def test_only_a_token_of_the_file_opens(shut, said, status):
    async with shut.get("/api/v1/devices", headers={"Authorization": said}) as response:
        assert response.status == status


async def test_device_fetches_its_bundle_without_a_token_by_its_hash_alone(shut, registry, tmp_path):
    make(tmp_path / "v1", version="v1")
    row = await registry.add(tmp_path / "v1", origin="upload")
    async with shut.get(f"/bundles/{row.sha256}", headers={"Range": "bytes=5-"}) as response:
        assert (response.status, await response.read()) == (206, (tmp_path / "v1").read_bytes()[5:])
    for path in (f"/bundles/{'0' * 64}", "/bundles/..%2F..%2Fedgeloop", f"/bundles/{row.sha256.upper()}"):
        async with shut.get(path) as response:
            assert response.status == 404
    async with shut.get("/api/v1/models/digits/v1/bundle") as response:
        assert response.status == 401


@pytest.mark.parametrize(
    ("host", "token", "warned"),
    [("127.0.0.1", False, False), ("0.0.0.0", False, True), ("0.0.0.0", True, False)],
)
async def test_service_that_anybody_reaches_without_a_token_says_so(domain, tmp_path, caplog, host, token, warned):
    caplog.set_level(logging.WARNING)
    (tmp_path / "tokens").write_text(TOKEN)
    (tmp_path / "tokens").chmod(0o600)
    file = tmp_path / "tokens" if token else None
    settings = HttpSettings(host=host, port=0, public_url="http://cloud.example:8080", token_file=file)
    async with serve_http(domain(settings)):
        pass
    assert ("token_file" in caplog.text) == warned


def test_addresses_of_this_machine_alone():
    alone = {"127.0.0.1": True, "127.9.9.9": True, "::1": True, "localhost": True, "": False, "::": False}
    alone |= {"0.0.0.0": False, "10.0.0.1": False, "cloud.example": False}
    assert {host: is_loopback(host) for host in alone} == alone
