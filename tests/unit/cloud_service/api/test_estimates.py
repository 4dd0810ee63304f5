"""The routes over real parts; the store is filled as devices would fill it."""

import pytest

from cloud_service.estimates.drift import Alarm
from tests.unit.cloud_service.estimates.conftest import Field
from tests.unit.cloud_service.estimates.test_incidents import EVIDENCE


@pytest.fixture
async def field(database):
    from cloud_service.storage.database import utc_now

    made = Field(database)
    made.now = utc_now()
    await made.upload(60, audit=True)
    await made.upload(40, audit=True, label=3)
    await made.upload(5, audit=True, agreed=False, label=3, device="cam-2")
    await made.upload(10, agreed=False, device="cam-2")
    return made


async def test_estimates_before_the_first_pass_are_none(api):
    assert await api("GET", "/api/v1/estimates") == (200, {"at": None, "items": []})


async def test_estimates_are_of_fleet_and_devices(api, field, estimator):
    await estimator.refresh()
    _, found = await api("GET", "/api/v1/estimates")
    assert found["at"] is not None
    assert [(item["task"], item["device"]) for item in found["items"]] == [
        ("digits", None),
        ("digits", "cam-1"),
        ("digits", "cam-2"),
    ]
    fleet, first, second = found["items"]
    assert fleet["agreement"]["audits"] == 105
    assert first["agreement"]["final"]["value"] == 1.0
    assert first["agreement"]["final"]["low"] == pytest.approx(0.965, abs=0.005)
    assert second["agreement"]["own"]["value"] == 0.0
    assert second["agreement"]["basis"] == "audits"
    (audits, everything) = fleet["accuracy"]
    assert (audits["labelled"], audits["unbiased"], audits["count"]) == ("audits", True, 45)
    assert (everything["labelled"], everything["unbiased"]) == ("all", False)
    assert audits["edge"]["value"] == 1.0
    assert audits["teacher"]["value"] == pytest.approx(40 / 45)
    assert any("audits say little" in warning for warning in second["warnings"])


async def test_estimates_of_one_task_or_device(api, field, estimator):
    await estimator.refresh()
    _, found = await api("GET", "/api/v1/estimates?task=digits&device=cam-2")
    assert [item["device"] for item in found["items"]] == ["cam-2"]
    _, found = await api("GET", "/api/v1/estimates?task=other")
    assert found["items"] == []


@pytest.mark.parametrize("path", ["estimates?tasc=digits", "incidents?limit=0", "incidents?open=perhaps"])
async def test_wrong_queries_are_refused(api, path):
    status, _ = await api("GET", f"/api/v1/{path}")
    assert status == 422


async def test_incidents_are_listed_and_told_apart(api, estimator):
    await estimator.incidents.begin("digits", "cam-1", EVIDENCE)
    await estimator.incidents.begin("digits", "cam-2", EVIDENCE)
    await estimator.incidents.end("digits", "cam-1", "it is over")
    _, found = await api("GET", "/api/v1/incidents")
    assert [(item["device"], item["closed_because"]) for item in found["items"]] == [
        ("cam-2", None),
        ("cam-1", "it is over"),
    ]
    assert found["items"][0]["evidence"]["alarms"] == {Alarm.ADWIN.value: 3, Alarm.PAGE_HINKLEY.value: 0}
    _, found = await api("GET", "/api/v1/incidents?open=true")
    assert [item["device"] for item in found["items"]] == ["cam-2"]
    _, found = await api("GET", "/api/v1/incidents?open=false&task=digits&device=cam-1&limit=5")
    assert [item["device"] for item in found["items"]] == ["cam-1"]
