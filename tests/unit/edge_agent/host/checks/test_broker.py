"""The broker, step by step: dialling is the test's own, MQTT is the simulated broker."""

import errno
import socket

import pytest

from edge_agent.host.checks.broker import check_broker
from shared.mqtt import BrokerSettings
from tests.sim.broker import SimulatedBroker

SETTINGS = BrokerSettings(host="broker.example")


def look(connect, *, dial=None, topics=("plant", "cam-1"), settings=SETTINGS):
    ends = socket.socketpair()
    try:
        found = list(
            check_broker(
                settings,
                place="broker",
                topics=topics,
                connect=connect,
                now=0.0,
                dial=dial or (lambda host, port: ends[0]),
            )
        )
    finally:
        for end in ends:
            end.close()
    return [(finding.level.value, finding.says) for finding in found]


def refusing(error):
    def dial(host, port):
        raise error

    return dial


def test_broker_that_takes_the_devices_topics_is_ok():
    broker = SimulatedBroker()
    found = look(broker.connect)
    assert [level for level, _ in found] == ["ok", "ok"]
    assert "there and back" in found[1][1]
    assert broker.published("edgeloop/v1/plant/cam-1/doctor") == [b""]
    assert [each.topic for each in broker.publications] == ["edgeloop/v1/plant/cam-1/doctor"]  # and nothing else


def test_broker_is_met_beside_the_running_agent_not_instead_of_it():
    broker, names = SimulatedBroker(), []

    def connect(identity):
        names.append(identity.client_id)
        return broker.connect(identity)

    look(connect)
    assert names == ["edge-plant-cam-1-doctor"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "is not found"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "nothing answers at broker.example:1883"),
        (TimeoutError("timed out"), "timed out"),
    ],
)
def test_broker_that_is_not_reached_is_told_by_the_step_that_fails(error, words):
    ((level, says),) = look(SimulatedBroker().connect, dial=refusing(error))
    assert level == "fail"
    assert words in says


def test_broker_that_refuses_the_device_fails():
    broker = SimulatedBroker()
    broker.refuse_connections()
    found = look(broker.connect)
    assert [level for level, _ in found] == ["ok", "fail"]
    assert "access list" in found[1][1]


def test_broker_of_something_else_is_only_connected_to():
    broker = SimulatedBroker()
    found = look(broker.connect, topics=None)
    assert [level for level, _ in found] == ["ok", "ok"]
    assert broker.publications == []
