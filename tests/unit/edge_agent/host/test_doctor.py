"""All checks together: in order, each made whatever the others find, and the agent left alone."""

import json

import pytest

from edge_agent.agent import EdgeAgent
from edge_agent.deciding.pressure import Readings
from edge_agent.host.doctor import Surroundings, examine
from edge_agent.settings import AgentSettings
from tests.harness import free_port
from tests.sim import bundles
from tests.sim.broker import SimulatedBroker

READINGS = Readings(None, None, None, 0.1, 0.5, 0.5, None, metered=False, link_up=True)


@pytest.fixture
def settings(tmp_path):
    bundles.make(tmp_path / "factory.bundle")

    def make(**changes):
        return AgentSettings.model_validate(
            {
                "site": "plant",
                "device": "cam-1",
                "state_dir": tmp_path / "state",
                "broker": {"port": free_port()},
                "tasks": {"digits": {"bundle": tmp_path / "factory.bundle"}},
                **changes,
            }
        )

    return make


def around(sense=lambda: READINGS):
    broker = SimulatedBroker()
    return Surroundings(lambda settings: broker.connect, sense)


def test_doctor_looks_at_everything_in_order(settings):
    found = list(examine(settings(), around()))
    order = list(dict.fromkeys(finding.check for finding in found))
    assert order == ["clock", "disk", "broker", "model", "accelerators", "sensors", "sources", "local server"]
    assert {finding.check for finding in found if finding.level == "fail"} == {"broker"}  # nothing listens there


def test_doctor_looks_at_every_other_broker_too(settings):
    bad = {"port": free_port()}
    found = list(examine(settings(outcomes={"mqtt": {"topic": "t", "broker": bad}}), around()))
    assert sum(finding.check == "broker" for finding in found) == 2


def test_doctor_goes_on_when_a_check_itself_fails(settings):
    def broken():
        raise RuntimeError("the driver is upset")

    found = list(examine(settings(), around(broken)))
    assert [finding.says for finding in found if finding.check == "sensors"] == [
        "this could not be checked: RuntimeError: the driver is upset"
    ]
    assert found[-1].check == "local server"


def test_doctor_leaves_a_running_agent_and_its_folder_as_they_are(settings, tmp_path):
    made = settings()
    with EdgeAgent.open(made) as agent:
        before = {file for file in (tmp_path / "state").rglob("*") if file.is_file()}
        found = list(examine(made, around()))
        assert {file for file in (tmp_path / "state").rglob("*") if file.is_file()} == before
        assert agent.model_version() == "v1"
    assert {finding.check for finding in found if finding.level == "fail"} == {"broker"}


def test_findings_are_json(settings):
    from dataclasses import asdict

    assert json.loads(json.dumps([asdict(finding) for finding in examine(settings(), around())]))[0]["check"] == "clock"
