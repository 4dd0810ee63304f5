import os
import socket
import stat

import pytest

from edge_agent.server.listening import Listener
from edge_agent.server.settings import ServerSettings
from shared.errors import SettingsError


@pytest.fixture
def listen():
    made = []

    def make(**settings):
        made.append(Listener(ServerSettings(**{"port": 0} | settings)))
        return made[-1]

    yield make
    for listener in made:
        listener.close()


def answers(address, family=socket.AF_INET):
    with socket.socket(family) as probe:
        probe.settimeout(2)
        return probe.connect_ex(address) == 0


def test_listener_takes_connections_before_anybody_serves_them(listen, caplog):
    listener = listen()
    port = listener.socket.getsockname()[1]
    assert listener.address == f"http://127.0.0.1:{port}"
    assert answers(("127.0.0.1", port))
    listener.close()
    listener.close()
    assert not answers(("127.0.0.1", port))
    assert caplog.text == ""


def test_listener_beyond_loopback_warns_that_there_is_no_login(listen, caplog):
    listener = listen(host="0.0.0.0")
    assert caplog.text.count("has no login") == 1
    assert listener.address in caplog.text


def test_listener_on_ip_version_6_is_loopback_as_well(listen, caplog):
    try:
        listener = listen(host="::1")
    except SettingsError as err:
        pytest.skip(f"no IPv6 on this machine: {err}")
    assert listener.address.startswith("http://[::1]:")
    assert caplog.text == ""


def test_busy_port_is_said_in_one_line(listen):
    port = listen().socket.getsockname()[1]
    with pytest.raises(SettingsError, match=rf"127.0.0.1:{port} \(Address already in use\): change \[server\]"):
        listen(port=port)


@pytest.mark.parametrize("host", ["host.invalid", "x" * 70 + ".invalid", "192.0.2.1"])
def test_host_that_is_not_this_device_is_said_in_one_line(listen, host):
    with pytest.raises(SettingsError, match=r"change \[server\] host or port"):
        listen(host=host)


def test_socket_file_is_for_owner_and_group_and_goes_with_the_listener(listen, tmp_path):
    path = tmp_path / "new" / "agent.sock"
    before = os.umask(0)
    try:
        listener = listen(socket=path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert listener.address == f"unix:{path}"
    assert answers(str(path), socket.AF_UNIX)
    listener.close()
    assert not path.exists()
    path.touch()  # another program's, by now
    listener.close()
    assert path.exists()


def test_socket_file_of_a_killed_agent_is_replaced(listen, tmp_path):
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    listen(socket=path)
    assert answers(str(path), socket.AF_UNIX)


def test_socket_file_that_somebody_listens_on_is_left_alone(listen, tmp_path):
    path = tmp_path / "agent.sock"
    listen(socket=path)
    with pytest.raises(SettingsError, match="another program listens"):
        listen(socket=path)
    assert answers(str(path), socket.AF_UNIX)


def test_file_of_another_kind_is_left_alone(listen, tmp_path):
    path = tmp_path / "agent.sock"
    path.write_text("precious")
    with pytest.raises(SettingsError, match="is no socket"):
        listen(socket=path)
    assert path.read_text() == "precious"


def test_socket_file_with_too_long_a_name_is_said_in_one_line(listen, tmp_path):
    with pytest.raises(SettingsError, match=r"change \[server\] socket"):
        listen(socket=tmp_path / ("x" * 120))
