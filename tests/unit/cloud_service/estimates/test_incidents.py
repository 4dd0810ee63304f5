import logging

import pytest

from cloud_service.estimates.drift import Alarm, Evidence
from cloud_service.estimates.incidents import Incidents

EVIDENCE = Evidence(
    bundle_version="v1",
    alarms={Alarm.ADWIN: 3, Alarm.PAGE_HINKLEY: 0},
    stream=700,
    number=9_000,
    before=0.1,
    now=0.4,
    audits=250,
    differing=10,
    agreement_high=0.97,
    goal=0.95,
    audit_fraction=0.05,
)


@pytest.fixture
def incidents(either_database):
    return Incidents(either_database)


async def test_incident_is_logged_once_when_it_begins_and_once_when_it_ends(incidents, caplog):
    with caplog.at_level(logging.INFO, logger="cloud_service.estimates.incidents"):
        for _ in range(3):
            await incidents.begin("digits", "cam-1", EVIDENCE)
        for _ in range(3):
            await incidents.end("digits", "cam-1", "it is over")
    began, ended = caplog.records
    assert (began.levelname, ended.levelname) == ("WARNING", "INFO")
    assert "device cam-1, task digits: what it sees has changed" in began.getMessage()
    assert "is over: it is over" in ended.getMessage()


async def test_incident_keeps_its_evidence_and_times(incidents):
    await incidents.begin("digits", "cam-1", EVIDENCE)
    (found,) = await incidents.all(limit=10)
    assert (found.task, found.device, found.closed_at, found.closed_because) == ("digits", "cam-1", None, None)
    assert found.evidence["alarms"] == {"adwin": 3, "page_hinkley": 0}
    assert found.sentence.startswith("device cam-1, task digits")
    await incidents.end("digits", "cam-1", "it is over")
    (found,) = await incidents.all(limit=10)
    assert found.closed_because == "it is over"
    assert found.closed_at >= found.opened_at


async def test_another_incident_of_the_device_may_follow(incidents):
    for _ in range(2):
        await incidents.begin("digits", "cam-1", EVIDENCE)
        await incidents.end("digits", "cam-1", "it is over")
    await incidents.begin("digits", "cam-1", EVIDENCE)
    await incidents.begin("digits", "cam-2", EVIDENCE)
    await incidents.begin("other", "cam-2", EVIDENCE)

    async def named(**which):
        return [(row.task, row.device) for row in await incidents.all(limit=10, **which)]

    assert len(await named()) == 5
    assert await named(is_open=True) == [("other", "cam-2"), ("digits", "cam-2"), ("digits", "cam-1")]
    assert await named(is_open=False) == [("digits", "cam-1")] * 2
    assert await named(task="other") == [("other", "cam-2")]
    assert len(await named(device="cam-1")) == 3
    assert len(await incidents.all(limit=2)) == 2
