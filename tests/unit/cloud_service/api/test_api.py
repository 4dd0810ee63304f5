import asyncio
import json
from uuid import uuid4

import aiohttp
import numpy as np
import pytest
from aiohttp.test_utils import make_mocked_request

from cloud_service.api.middleware import problems
from cloud_service.storage.models import Device
from cloud_service.storage.samples import Answer, NewSample
from shared.messages import DeviceState, LedgerBytes, Reason, SpoolState, TaskState, Telemetry
from tests.sim.bundles import LABELS, linear_model, make, sample, weights
from tests.sim.device import header

DESCRIPTION = {"task": "digits", "version": "w1", "input": {"shape": [8, 8], "dtype": "uint8"}}


def form(**parts: bytes) -> aiohttp.FormData:
    made = aiohttp.FormData()
    for name, content in parts.items():
        made.add_field(name, content, filename=name)
    return made


def bundle_bytes(tmp_path, **options) -> bytes:
    make(tmp_path / "made.bundle", **options)
    return (tmp_path / "made.bundle").read_bytes()


async def seen(fleet, name="cam-1", version="v1", sha256="a" * 64):
    task = TaskState(bundle_version=version, bundle_sha256=sha256)
    fleet.saw(name, DeviceState(online=True, agent_version="0.1.0", tasks={"digits": task}))
    fleet.saw(name, Telemetry(seq=1, uptime_s=1.0, tasks={}, ledger=LedgerBytes(), spool=SpoolState(items=2)))
    await fleet.flush()


async def test_healthz_answers_without_a_broker(api):
    status, body = await api("GET", "/healthz")
    assert (status, body["broker"], body["status"]) == (200, "down", "degraded")


async def test_devices_are_listed_and_shown(api, fleet):
    assert await api("GET", "/api/v1/devices") == (200, {"items": [], "next": None})
    await seen(fleet)
    _, body = await api("GET", "/api/v1/devices")
    [device] = body["items"]
    assert (device["name"], device["online"], device["telemetry"]["spool"]["items"]) == ("cam-1", True, 2)
    assert device["tasks"]["digits"]["bundle_version"] == "v1"
    assert await api("GET", "/api/v1/devices/cam-1") == (200, device)
    status, problem = await api("GET", "/api/v1/devices/cam-9")
    assert status == 404
    assert "cam-9" in problem["detail"]


async def test_devices_come_in_pages_by_name(api, fleet):
    names = [f"cam-{n}" for n in range(7)]
    for name in names:
        fleet.saw(name)
    await fleet.flush()
    found, path = [], "/api/v1/devices?limit=3"
    for count in (3, 3, 1):
        _, page = await api("GET", path)
        assert len(page["items"]) == count
        found += [device["name"] for device in page["items"]]
        path = f"/api/v1/devices?limit=3&cursor={page['next']}"
    assert (found, page["next"]) == (names, None)
    assert (await api("GET", "/api/v1/devices?limit=7"))[1]["next"] is None
    for wrong in ("cursor=cam-1", "limit=0", "limit=1001", "offset=3"):
        assert (await api("GET", f"/api/v1/devices?{wrong}"))[0] == 422


async def test_device_of_another_version_shows_what_can_be_read(api, fleet, database):
    await seen(fleet)
    fleet.saw("cam-2")
    await fleet.flush()
    _, whole = await api("GET", "/api/v1/devices/cam-1")
    async with database.writing() as session:
        row = await session.get(Device, "cam-1")
        row.telemetry = row.telemetry | {"colour": "blue", "spool": row.telemetry["spool"] | {"shape": {"x": 1}}}
        row.tasks = row.tasks | {"sounds": {"bundle": "v3"}}
    assert await api("GET", "/api/v1/devices/cam-1") == (200, whole)
    async with database.writing() as session:
        (await session.get(Device, "cam-1")).telemetry = {"words": "nothing of ours"}
    status, body = await api("GET", "/api/v1/devices")
    assert (status, [device["name"] for device in body["items"]]) == (200, ["cam-1", "cam-2"])
    assert body["items"][0] == whole | {"telemetry": None}


async def test_bundle_is_pushed_listed_shown_and_fetched(api, tmp_path):
    data = bundle_bytes(tmp_path, version="v2")
    status, pushed = await api("POST", "/api/v1/models", data=form(bundle=data))
    assert (status, pushed["version"], pushed["size_bytes"]) == (201, "v2", len(data))
    assert pushed["manifest"]["labels"] == list(LABELS)
    assert (await api("POST", "/api/v1/models", data=form(bundle=data)))[1] == pushed
    _, listed = await api("GET", "/api/v1/models?task=digits")
    assert [model["version"] for model in listed["items"]] == ["v2"]
    assert await api("GET", "/api/v1/models?task=sounds") == (200, {"items": []})
    assert await api("GET", "/api/v1/models/digits/v2") == (200, pushed)
    async with api.client.get("/api/v1/models/digits/v2/bundle") as response:
        assert await response.read() == data
        assert response.headers["ETag"] == f'"{pushed["sha256"]}"'
    assert (await api("GET", "/api/v1/models/digits/v9"))[0] == 404
    assert (await api("GET", "/api/v1/models/digits/v9/bundle"))[0] == 404


@pytest.mark.parametrize(
    ("wanted", "status", "start", "stop"),
    [
        ("bytes=0-9", 206, 0, 10),
        ("bytes=100-", 206, 100, None),
        ("bytes=-7", 206, -7, None),
        ("bytes=5-999999999", 206, 5, None),
        ("bytes=999999999-", 416, 0, 0),
        ("bytes=9-3", 416, 0, 0),
        ("bytes=0-1,3-4", 416, 0, 0),
        ("lines=1-2", 416, 0, 0),
    ],
)
async def test_bundle_is_sent_in_parts(api, tmp_path, wanted, status, start, stop):
    data = bundle_bytes(tmp_path, version="v2")
    await api("POST", "/api/v1/models", data=form(bundle=data))
    async with api.client.get("/api/v1/models/digits/v2/bundle", headers={"Range": wanted}) as response:
        body = await response.read()
    assert response.status == status
    if status == 206:
        assert body == data[start:stop]
        first = start % len(data)
        assert response.headers["Content-Range"] == f"bytes {first}-{first + len(body) - 1}/{len(data)}"
    else:
        assert response.headers["Content-Range"] == f"bytes */{len(data)}"


async def test_bundle_that_the_caller_has_is_not_sent_again(api, tmp_path):
    data = bundle_bytes(tmp_path, version="v2")
    _, pushed = await api("POST", "/api/v1/models", data=form(bundle=data))
    etag = f'"{pushed["sha256"]}"'
    path = "/api/v1/models/digits/v2/bundle"
    async with api.client.get(path, headers={"If-None-Match": etag}) as response:
        assert (response.status, await response.read()) == (304, b"")
    async with api.client.get(path, headers={"Range": "bytes=0-4", "If-Range": etag}) as response:
        assert (response.status, await response.read()) == (206, data[:5])
    async with api.client.get(path, headers={"Range": "bytes=0-4", "If-Range": '"other"'}) as response:
        assert (response.status, await response.read()) == (200, data)
    async with api.client.head(path) as response:
        assert (response.status, response.content_length, await response.read()) == (200, len(data), b"")


async def test_lost_bundle_file_is_a_problem_until_it_is_pushed_again(api, tmp_path, registry):
    data = bundle_bytes(tmp_path)
    _, pushed = await api("POST", "/api/v1/models", data=form(bundle=data))
    registry.file(pushed["sha256"]).unlink()
    status, problem = await api("GET", "/api/v1/models/digits/v1/bundle")
    assert status == 503
    assert "push the model again" in problem["detail"]
    assert (await api("POST", "/api/v1/models", data=form(bundle=data)))[0] == 201
    async with api.client.get("/api/v1/models/digits/v1/bundle") as response:
        assert await response.read() == data


async def test_any_onnx_classifier_with_a_description_becomes_a_model(api, registry):
    model = linear_model(weights(64, 10))
    data = form(model=model, description=json.dumps(DESCRIPTION).encode())
    status, pushed = await api("POST", "/api/v1/models", data=data)
    assert (status, pushed["origin"], pushed["version"]) == (201, "wrapped", "w1")
    assert pushed["manifest"]["labels"] == list(LABELS)
    again = form(model=model, description=json.dumps(DESCRIPTION).encode())
    assert (await api("POST", "/api/v1/models", data=again))[1] == pushed
    foreign = json.dumps(DESCRIPTION | {"task": "sounds"}).encode()
    assert (await api("POST", "/api/v1/models", data=form(model=model, description=foreign)))[0] == 201


@pytest.mark.parametrize(
    ("parts", "status", "words"),
    [
        ({}, 422, "nothing"),
        ({"bundle": b"no bundle"}, 422, "not a bundle"),
        ({"model": b"no model"}, 422, "'description'"),
        ({"model": b"no model", "description": b"{}"}, 422, "task: Field required"),
        ({"model": b"no model", "description": json.dumps(DESCRIPTION).encode()}, 422, "not a valid ONNX"),
        ({"model": b"x", "description": b" " * 2_001}, 413, "max_body_bytes"),
        ({"file": b"x"}, 422, "parts may be"),
        ({"bundle": bytes(200_001)}, 413, "max_model_bytes"),
        ({"bundle": bytes(150_000), "model": bytes(150_000)}, 413, "max_model_bytes"),
    ],
)
async def test_wrong_uploads_are_refused_and_leave_nothing(api, tmp_path, parts, status, words):
    data = form(**parts) if parts else aiohttp.FormData([("x", "1")], default_to_multipart=True)
    got, problem = await api("POST", "/api/v1/models", data=data)
    assert got == status
    assert words in problem["detail"] or not parts
    assert list((tmp_path / "bundles").iterdir()) == []


async def test_upload_that_is_no_multipart_or_breaks_off_is_refused(api):
    assert (await api("POST", "/api/v1/models", data=b"x"))[0] == 422
    headers = {"Content-Type": "multipart/form-data; boundary=abc"}
    for body in (b"", b"--abc\r\n", b"--abc\r\nContent-Disposition: form-data; name=bundle\r\n\r\nhalf"):
        assert (await api("POST", "/api/v1/models", data=body, headers=headers))[0] == 422
    assert (await api("POST", "/api/v1/models", data=b"x", headers={"Content-Type": "multipart/form-data"}))[0] == 422


async def test_another_bundle_under_the_same_version_is_a_conflict(api, tmp_path):
    await api("POST", "/api/v1/models", data=form(bundle=bundle_bytes(tmp_path, version="v2")))
    other = bundle_bytes(tmp_path, version="v2", shift=1)
    assert (await api("POST", "/api/v1/models", data=form(bundle=other)))[0] == 409


async def test_model_is_deployed_to_named_devices_or_all_that_run_the_task(api, tmp_path, fleet):
    await api("POST", "/api/v1/models", data=form(bundle=bundle_bytes(tmp_path, version="v2")))
    wanted = {"task": "digits", "version": "v2"}
    assert (await api("POST", "/api/v1/deployments", json=wanted | {"all": True}))[0] == 422
    await seen(fleet, "cam-1")
    await seen(fleet, "cam-2")
    status, sent = await api("POST", "/api/v1/deployments", json=wanted | {"all": True})
    assert status == 201
    assert [(d["device"], d["state"]) for d in sent["items"]] == [("cam-1", "pending"), ("cam-2", "pending")]
    await api("POST", "/api/v1/deployments", json=wanted | {"devices": ["cam-3"]})
    _, listed = await api("GET", "/api/v1/deployments?task=digits&version=v2&limit=2")
    assert [d["device"] for d in listed["items"]] == ["cam-3", "cam-2"]
    _, one = await api("GET", "/api/v1/deployments?device=cam-1")
    assert len(one["items"]) == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"task": "digits", "version": "v2"}, 422),
        ({"task": "digits", "version": "v2", "devices": ["a"], "all": True}, 422),
        ({"task": "digits", "version": "v2", "devices": ["no/slash"]}, 422),
        ({"task": "digits", "version": "v2", "devices": ["a"], "colour": 1}, 422),
        ({"task": "digits", "version": "v9", "devices": ["a"]}, 404),
        ({"task": "digits", "version": "v2", "devices": ["a" * 60] * 100}, 413),
        ([], 422),
    ],
)
async def test_wrong_deployments_are_refused(api, body, status):
    assert (await api("POST", "/api/v1/deployments", json=body))[0] == status


async def test_rejected_model_is_not_deployed(api, tmp_path, registry):
    make(tmp_path / "b", version="bad")
    await registry.add(tmp_path / "b", origin="job:1", shippable=False)
    body = {"task": "digits", "version": "bad", "devices": ["a"]}
    assert (await api("POST", "/api/v1/deployments", json=body))[0] == 409


async def test_samples_are_paged_filtered_shown_and_counted(api, samples):
    made = [
        NewSample(f"cam-{n % 2}", header(seq=n, reason=Reason.AUDIT if n == 4 else Reason.HARD), sample(n))
        for n in range(5)
    ]
    await samples.add(made)
    says = np.full(10, 0.05, np.float32)
    says[3] = 0.55
    await samples.answer([(made[0].header.sample_id, Answer(says, "t1"))])

    listed, path = [], "/api/v1/samples?limit=2"
    while True:
        _, page = await api("GET", path)
        listed += [item["id"] for item in page["items"]]
        if page["next"] is None:
            break
        path = f"/api/v1/samples?limit=2&cursor={page['next']}"
    assert listed == [str(each.header.sample_id) for each in reversed(made)]
    assert (await api("GET", "/api/v1/samples?limit=6"))[1]["next"] is None

    _, page = await api("GET", "/api/v1/samples?task=digits&device=cam-0&label=3&reason=hard")
    assert [item["id"] for item in page["items"]] == [str(made[0].header.sample_id)]
    _, shown = await api("GET", f"/api/v1/samples/{made[0].header.sample_id}")
    assert shown["verdict"]["label"] == 3
    assert shown["verdict"]["probabilities"][3] == pytest.approx(0.55)

    _, summary = await api("GET", "/api/v1/samples/summary?task=digits")
    assert (summary["total"], summary["answered"]) == (5, 1)
    audit = {"task": "digits", "device": "cam-0", "reason": "audit", "label": None, "count": 1, "labelled": 0}
    assert audit in summary["groups"]
    assert (await api("GET", f"/api/v1/samples/{uuid4()}"))[0] == 404
    assert (await api("GET", "/api/v1/samples/nonsense"))[0] == 404


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "cursor=x", "label=-1", "label=99999999999999999999", "colour=red", "limit=1&limit=2"],
)
async def test_wrong_queries_are_refused(api, query):
    assert (await api("GET", f"/api/v1/samples?{query}"))[0] == 422


async def test_jobs_are_made_listed_shown_and_cancelled(api):
    status, job = await api("POST", "/api/v1/jobs", json={"task": "digits", "seed": 5})
    assert (status, job["state"], job["seed"], job["trigger"]) == (201, "queued", 5, "manual")
    assert await api("GET", f"/api/v1/jobs/{job['id']}") == (200, job)
    assert await api("GET", "/api/v1/jobs?task=digits") == (200, {"items": [job]})
    status, cancelled = await api("DELETE", f"/api/v1/jobs/{job['id']}")
    assert (status, cancelled["state"]) == (200, "cancelled")
    assert (await api("DELETE", f"/api/v1/jobs/{job['id']}"))[0] == 409
    assert (await api("GET", "/api/v1/jobs/none"))[0] == 404
    assert (await api("DELETE", "/api/v1/jobs/none"))[0] == 404


async def test_log_of_a_job_is_read_in_parts_and_waited_for(api, tmp_path):
    _, job = await api("POST", "/api/v1/jobs", json={"task": "digits"})
    path = f"/api/v1/jobs/{job['id']}/logs"
    assert await api("GET", path) == (200, {"text": "", "next": 0, "ended": False})
    folder = tmp_path / "jobs" / job["id"]
    folder.mkdir(parents=True)
    waiting = asyncio.create_task(api("GET", f"{path}?after=0&wait_s=20"))
    await asyncio.sleep(0)
    (folder / "log.txt").write_text("one\ntwo\n")
    assert await waiting == (200, {"text": "one\ntwo\n", "next": 8, "ended": False})
    assert (await api("GET", f"{path}?tail=1"))[1]["text"] == "two\n"
    assert (await api("GET", f"{path}?after=8"))[1] == {"text": "", "next": 8, "ended": False}
    await api("DELETE", f"/api/v1/jobs/{job['id']}")
    assert (await api("GET", f"{path}?after=0"))[1] == {"text": "one\ntwo\n", "next": 8, "ended": False}
    assert (await api("GET", f"{path}?after=8&wait_s=20"))[1] == {"text": "", "next": 8, "ended": True}
    assert (await api("GET", f"{path}?after=8&tail=1"))[0] == 422
    assert (await api("GET", "/api/v1/jobs/none/logs"))[0] == 404


async def test_triggers_say_how_they_stand_and_why(api):
    status, found = await api("GET", "/api/v1/triggers?task=digits")
    [trigger] = found["items"]
    assert (status, trigger["task"], trigger["standing"], trigger["trigger"]) == (200, "digits", "idle", None)
    assert "by hand" in trigger["reason"]
    assert (await api("GET", "/api/v1/triggers?task=sounds"))[0] == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 422),
        (b"{}", 422),
        (b'{"task": "sounds"}', 404),
        (b'{"task": "digits", "seed": -1}', 422),
        (b" " * 2_001, 413),
    ],
)
async def test_wrong_jobs_are_refused(api, body, status):
    assert (await api("POST", "/api/v1/jobs", data=body))[0] == status


async def test_unknown_paths_and_methods_are_problems_too(api):
    assert (await api("GET", "/nothing"))[0] == 404
    async with api.client.request("PUT", "/api/v1/jobs") as response:
        problem = await response.json(content_type="application/problem+json")
    assert (response.status, response.headers["Allow"]) == (405, "GET,HEAD,POST")
    assert "Allow" in problem["remedy"]


async def test_defect_shows_nothing_of_its_insides(api, samples, blobs, caplog):
    await samples.add([NewSample("cam-1", header(), sample(1))])
    samples._database = None
    status, problem = await api("GET", "/api/v1/samples")
    assert (status, problem["detail"]) == (500, "an unexpected error")
    assert "GET /api/v1/samples failed" in caplog.text


async def test_broken_database_is_a_503(api, database):
    from sqlalchemy import text

    async with database.writing() as session:
        await session.execute(text("DROP TABLE samples"))
    status, problem = await api("GET", "/api/v1/samples")
    assert status == 503
    assert "no such table" in problem["detail"]


async def test_caller_that_goes_away_is_no_defect(caplog):
    async def gone(_request):
        raise ConnectionResetError("Cannot write to closing transport")

    with pytest.raises(ConnectionResetError):
        await problems(make_mocked_request("GET", "/api/v1/models/digits/v1/bundle"), gone)
    assert caplog.records == []
