"""The local server's address: free, taken, or answering."""

import socket

import pytest

from edge_agent.host.checks.server import check_server
from edge_agent.server.settings import ServerSettings
from tests.harness import free_port


def look(*, running, **server):
    found = check_server(ServerSettings(enabled=True, **server), running=running)
    return [(finding.level.value, finding.says) for finding in found]


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_server_that_is_off_is_fine():
    (finding,) = check_server(ServerSettings(), running=False)
    assert finding.says == "it is off"


def test_port_is_free_taken_or_answers(taken):
    assert look(running=False, port=free_port())[0][0] == "ok"
    ((level, says),) = look(running=False, port=taken)
    assert (level, "something else listens" in says) == ("fail", True)
    assert look(running=True, port=taken)[0][0] == "ok"
    assert look(running=True, port=free_port())[0][0] == "fail"


def test_server_that_others_could_reach_is_told():
    assert [level for level, _ in look(running=False, host="0.0.0.0", port=free_port())] == ["warn", "ok"]
    assert look(running=False, host="203.0.113.9", port=free_port())[-1][0] == "fail"


def test_socket_needs_its_folder_and_the_agent(tmp_path):
    assert look(running=False, socket=tmp_path / "no" / "s")[0][0] == "fail"
    assert look(running=False, socket=tmp_path / "s")[0][0] == "ok"
    assert look(running=False, socket="/run/edge-agent/s")[0][0] == "ok"  # systemd makes it
    assert look(running=True, socket=tmp_path / "s")[0][0] == "fail"
