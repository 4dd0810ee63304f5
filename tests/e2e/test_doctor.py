"""The doctor against a real Mosquitto: TLS, certificates of the fleet's authority, and an access list."""

import time

import pytest

from edge_agent.host.checks.broker import check_broker
from shared.mqtt import BrokerSettings, connector
from tests.harness import Mosquitto, find_mosquitto
from tests.harness.brokers import NO_MOSQUITTO
from tests.sim.certificates import Authority

pytestmark = pytest.mark.e2e

# Each device may touch its own subtree: its name is its certificate's.
ACCESS = "pattern readwrite edgeloop/v1/plant/%u/#\n"


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "ca")


@pytest.fixture
def fleet(tmp_path, authority, free_port):
    """A function that starts a broker for mutual TLS on another port than the plain one; returns that port."""
    brokers = []

    def start(*, address="127.0.0.1"):
        if find_mosquitto() is None:
            pytest.skip(NO_MOSQUITTO)
        own, port = authority.sign("broker", address=address), free_port()
        (tmp_path / "access").write_text(ACCESS)
        tls = {"cafile": authority.cert, "certfile": own.cert, "keyfile": own.key, "require_certificate": "true"}
        lines = [f"acl_file {tmp_path}/access", f"listener {port} 127.0.0.1"]
        lines += [f"{key} {value}" for key, value in tls.items()] + ["use_identity_as_username true"]
        brokers.append(Mosquitto(tmp_path / "mosquitto", extra="\n".join(lines)).start())
        return port

    yield start
    for broker in brokers:
        broker.stop()


def look(device="cam-1", **broker):
    settings = BrokerSettings(**broker)
    found = check_broker(
        settings, place="broker", topics=("plant", device), connect=connector(settings), now=time.time()
    )
    return [(finding.level.value, finding.says) for finding in found]


def test_doctor_goes_through_tls_to_the_devices_own_topics(fleet, authority):
    device = authority.sign("cam-1")
    found = look(port=fleet(), ca_file=authority.cert, cert_file=device.cert, key_file=device.key)
    assert [level for level, _ in found] == ["ok", "warn", "ok"]  # the broker's certificate is valid for ten days
    assert "lets the device publish and subscribe" in found[-1][1]


def test_doctor_says_when_the_broker_keeps_the_topics_from_the_device(fleet, authority):
    device = authority.sign("cam-1")
    found = look("cam-2", port=fleet(), ca_file=authority.cert, cert_file=device.cert, key_file=device.key)
    assert found[-1][0] == "warn"
    assert "edgeloop/v1/plant/cam-2/#" in found[-1][1]


def test_doctor_names_the_wrong_authority_and_the_wrong_host(fleet, authority, tmp_path):
    port = fleet(address="127.0.0.2")
    stranger = Authority(tmp_path / "stranger", name="Somebody else")
    found = look(port=port, ca_file=stranger.cert)
    assert found[-1] == (
        "fail",
        "broker.ca_file is not the authority that signed the broker's certificate; until then nothing is sent",
    )
    found = look(port=port, ca_file=authority.cert)
    assert found[-1][0] == "fail"
    assert "names another address" in found[-1][1]


def test_doctor_says_when_the_broker_wants_a_certificate(fleet, authority):
    found = look(port=fleet(), ca_file=authority.cert)
    assert found[-1][0] == "fail"


def test_doctor_says_when_the_port_speaks_no_tls(mosquitto, authority):
    found = look(port=mosquitto.port, ca_file=authority.cert)
    assert found[-1][0] == "fail"
    assert "TLS port" in found[-1][1]
