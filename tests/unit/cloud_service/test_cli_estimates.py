"""`edgeloop estimates` and `edgeloop incidents` against a real API on loopback."""

import json

from cloud_service.storage.database import utc_now
from tests.unit.cloud_service.estimates.conftest import Field
from tests.unit.cloud_service.estimates.test_incidents import EVIDENCE


async def test_estimates_name_the_fleet_and_each_device(edgeloop, url, database, estimator):
    code, out, _ = await edgeloop("estimates", "--url", url)
    assert (code, "no estimates yet" in out) == (0, True)
    field = Field(database)
    field.now = utc_now()
    await field.upload(200, audit=True)
    await field.upload(40, audit=True, label=3, device="cam-2")
    await estimator.refresh()
    code, out, _ = await edgeloop("estimates", "--url", url)
    assert code == 0
    assert "100.0% (98.1% to 100.0%)" in out
    assert [line.split()[0] for line in out.splitlines()[1:] if line and not line.startswith(" ")] == [
        "all",
        "cam-1",
        "cam-2",
    ]
    code, out, _ = await edgeloop("estimates", "--url", url, "--device", "cam-2", "--task", "digits", "--json")
    (found,) = json.loads(out)["items"]
    assert (found["device"], found["accuracy"][0]["count"]) == ("cam-2", 40)


async def test_incidents_are_the_open_ones_or_all(edgeloop, url, estimator):
    await estimator.incidents.begin("digits", "cam-1", EVIDENCE)
    await estimator.incidents.begin("digits", "cam-2", EVIDENCE)
    await estimator.incidents.end("digits", "cam-1", "it is over")
    code, out, _ = await edgeloop("incidents", "--url", url)
    assert code == 0
    assert "device cam-2" in out
    assert "device cam-1" not in out
    code, out, _ = await edgeloop("incidents", "--url", url, "--all", "--json")
    assert [item["device"] for item in json.loads(out)["items"]] == ["cam-2", "cam-1"]
    code, out, _ = await edgeloop("incidents", "--url", url, "--all", "--device", "cam-1", "--task", "digits")
    assert "device cam-1" in out
    assert "cam-2" not in out
