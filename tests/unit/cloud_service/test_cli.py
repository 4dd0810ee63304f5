"""The command line against a real API on loopback; commands run in threads, the API in the test's event loop."""

import asyncio
import json
import re
import socket

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from cloud_service.client import Client, ServiceUnreachable
from cloud_service.errors import Conflict, NotFound, RequestInvalid
from cloud_service.rollouts.driver import DeploymentFilter
from cloud_service.training.jobs import Jobs
from shared.bundle import sha256_file
from shared.errors import EdgeloopError
from shared.ids import new_id
from shared.messages import DeviceState, Report, TaskState, UpdateFailure, UpdateOutcome
from tests.sim.bundles import linear_model, make, weights
from tests.sim.pipeline import COMMAND

DESCRIPTION = {"task": "digits", "version": "w1", "input": {"shape": [8, 8], "dtype": "uint8"}}


@pytest.fixture
async def jobs(job_parts, digits_task, tmp_path):
    made = Jobs(job_parts, tasks={"digits": digits_task}, folder=tmp_path / "jobs", command=(*COMMAND, "pass"))
    working = asyncio.create_task(made.run())
    yield made
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)


@pytest.fixture
def files(tmp_path):
    make(tmp_path / "v2.bundle", version="v2")
    (tmp_path / "model.onnx").write_bytes(linear_model(weights(64, 10)))
    (tmp_path / "model.json").write_text(json.dumps(DESCRIPTION))
    return tmp_path


async def online(fleet, *names):
    for name in names:
        task = TaskState(bundle_version="v1", bundle_sha256="a" * 64)
        fleet.saw(name, DeviceState(online=True, tasks={"digits": task}))
    await fleet.flush()


async def test_model_is_pushed_to_a_device_and_waited_for(edgeloop, url, files, rollouts, fleet):
    await online(fleet, "cam-1")
    pushing = asyncio.create_task(
        edgeloop("model", "push", files / "v2.bundle", "--device", "cam-1", "--wait", "--url", url, "--json")
    )
    async with asyncio.timeout(20):
        while not await rollouts.deployments(DeploymentFilter()):
            await asyncio.sleep(0.01)
    sha256 = sha256_file(files / "v2.bundle")
    report = Report(
        report_id=new_id(),
        task="digits",
        version="v2",
        bundle_sha256=sha256,
        from_version="v1",
        outcome=UpdateOutcome.ACTIVATED,
        seconds=0.1,
    )
    await rollouts.settle("cam-1", report)
    code, out, _ = await pushing
    result = json.loads(out)
    assert code == 0
    assert result["model"]["sha256"] == sha256
    assert [d["state"] for d in result["deployments"]] == ["activated"]


async def test_failed_or_silent_devices_end_a_waiting_push_with_an_error(edgeloop, url, files, rollouts, fleet):
    await online(fleet, "cam-1", "cam-2")
    push = ("model", "push", files / "v2.bundle", "--all", "--wait", "--timeout-s", "0.1", "--url", url)
    code, out, _ = await edgeloop(*push)
    assert code == 1
    assert "cam-1" in out
    assert "pending" in out
    report = Report(
        report_id=new_id(),
        task="digits",
        version="v2",
        bundle_sha256=sha256_file(files / "v2.bundle"),
        from_version="v1",
        outcome=UpdateOutcome.FAILED,
        failure=UpdateFailure.SELF_TEST,
    )
    for device in ("cam-1", "cam-2"):
        await rollouts.settle(device, report)
    assert (await edgeloop("model", "list", "--url", url))[0] == 0


async def test_onnx_model_is_pushed_with_its_description(edgeloop, url, files):
    push = ("model", "push", files / "model.onnx", "--description", files / "model.json", "--url", url)
    code, out, _ = await edgeloop(*push)
    assert (code, "digits w1 is in the registry" in out) == (0, True)
    code, out, _ = await edgeloop("model", "list", "--task", "digits", "--url", url)
    assert "wrapped" in out
    code, out, _ = await edgeloop("model", "deploy", "digits", "w1", "--device", "cam-7", "--url", url)
    assert (code, "cam-7" in out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("model", "push", "model.onnx"), 2, "--description"),
        (("model", "push", "v2.bundle", "--all", "--device", "a"), 2, "not both"),
        (("model", "push", "missing.bundle"), 65, "cannot read"),
        (("model", "push", "model.json"), 65, "not a bundle"),
        (("model", "push", "v2.bundle", "--all"), 65, "no device runs"),
        (("model", "deploy", "digits", "v9", "--device", "a"), 66, "edgeloop model list"),
        (("model", "deploy", "digits", "v9"), 2, "--all"),
        (("distill", "run", "sounds"), 66, "the service serves: digits"),
        (("distill", "show", "none"), 66, "edgeloop distill list"),
        (("model", "push", "v2.bundle", "--device", "a/b"), 65, "edgeloop: devices: String"),
    ],
)
async def test_errors_are_one_line_and_a_code(edgeloop, url, files, monkeypatch, arguments, code, words):
    monkeypatch.chdir(files)
    got, _, err = await edgeloop(*arguments, "--url", url)
    assert got == code
    assert words in err
    assert err.count("\n") == 1
    assert err.startswith("edgeloop: ")
    assert not re.search(r"\b(GET|POST)\b|/api/|openapi", err)


async def test_tables_and_json_show_the_same(edgeloop, url, fleet):
    await online(fleet, "cam-1")
    code, out, _ = await edgeloop("devices", "--url", url)
    assert (code, "cam-1" in out, "digits v1" in out) == (0, True, True)
    _, out, _ = await edgeloop("devices", "--url", url, "--json")
    assert json.loads(out)["items"][0]["name"] == "cam-1"
    assert (await edgeloop("version"))[1].strip()


async def test_devices_of_all_pages_are_listed(edgeloop, url, fleet):
    await online(fleet, *(f"cam-{n:04}" for n in range(1_001)))
    _, out, _ = await edgeloop("devices", "--url", url, "--json")
    assert [device["name"] for device in json.loads(out)["items"]] == [f"cam-{n:04}" for n in range(1_001)]
    assert json.loads(out)["next"] is None


async def test_job_is_run_to_its_end_shown_and_not_cancelled_afterwards(edgeloop, url):
    code, out, _ = await edgeloop("distill", "run", "digits", "--wait", "--url", url, "--json")
    job = json.loads(out)
    assert (code, job["state"], job["version"]) == (0, "succeeded", "digits-1")
    _, out, _ = await edgeloop("distill", "list", "--url", url)
    assert f"{job['id']}  digits" in out
    assert "digits: idle: jobs are started by hand: the task has no trigger" in out
    _, out, _ = await edgeloop("distill", "show", job["id"], "--url", url)
    assert "started by manual: by hand" in out
    assert "distill  2/2" in out
    assert "gate: digits-1 passed" in out
    assert "right on held-out base samples" in out
    _, out, _ = await edgeloop("distill", "logs", job["id"], "--follow", "--url", url)
    assert "distill ended: done" in out
    _, out, _ = await edgeloop("distill", "logs", job["id"], "--tail", "0", "--url", url)
    assert out == ""
    assert (await edgeloop("distill", "cancel", job["id"], "--url", url))[0] == 65


async def test_client_downloads_what_it_uploaded(url, files):
    client = Client(url)
    pushed = await asyncio.to_thread(client.upload_bundle, files / "v2.bundle")
    await asyncio.to_thread(client.download_bundle, "digits", pushed["version"], files / "copy")
    assert (files / "copy").read_bytes() == (files / "v2.bundle").read_bytes()
    assert (await asyncio.to_thread(client.health))["status"] == "ok"
    assert (await asyncio.to_thread(client.get, "/api/v1/models", {"task": "sounds"}))["items"] == []


async def test_client_tells_absence_refusal_and_strangers_apart(url, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        silent = Client(f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert silent.health() is None
        with pytest.raises(ServiceUnreachable, match="start it"):
            silent.get("/healthz")
    with pytest.raises(RequestInvalid, match="no address"):
        Client("nowhere").get("/healthz")
    with pytest.raises(NotFound):
        await asyncio.to_thread(Client(url).get, "/api/v1/devices/none")
    make(tmp_path / "a", version="v1")
    make(tmp_path / "b", version="v1", shift=1)
    await asyncio.to_thread(Client(url).upload_bundle, tmp_path / "a")
    with pytest.raises(Conflict):
        await asyncio.to_thread(Client(url).upload_bundle, tmp_path / "b")

    async def odd(request: web.Request) -> web.Response:
        return web.Response(text="hello", status=200 if request.path == "/healthz" else 418)

    app = web.Application()
    app.router.add_get("/{name:.*}", odd)
    async with TestServer(app) as server:
        stranger = Client(str(server.make_url("")))
        with pytest.raises(ServiceUnreachable, match="no edgeloop service"):
            await asyncio.to_thread(stranger.get, "/healthz")
        with pytest.raises(EdgeloopError, match="418"):
            await asyncio.to_thread(stranger.get, "/else")
