"""The sd_notify protocol against a socket of the test's own."""

import os
import socket

import pytest

from edge_agent.host.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def systemd(request, tmp_path):
    """The socket that systemd would hold, and its name as systemd gives it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@edgeloop-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name[1:]}" if name.startswith("@") else name)
        listener.settimeout(5)
        yield listener, name


def said(listener):
    return listener.recv(4096).decode().split("\n")


def test_notifier_speaks_the_protocol(systemd):
    listener, name = systemd
    notifier = Notifier(name, monotonic_ns=lambda: 12_345_678)
    notifier.ready("answering")
    assert said(listener) == ["READY=1", "STATUS=answering"]
    notifier.reloading("reading agent.toml")
    assert said(listener) == ["RELOADING=1", "MONOTONIC_USEC=12345", "STATUS=reading agent.toml"]
    notifier.alive()
    assert said(listener) == ["WATCHDOG=1"]
    notifier.status("two\nlines=x")
    assert said(listener) == ["STATUS=two lines=x"]
    notifier.stopping("bye")
    assert said(listener) == ["STOPPING=1", "STATUS=bye"]


def test_notifier_without_systemd_does_nothing():
    notifier = Notifier.from_environment({})
    assert notifier.watchdog_s is None
    notifier.ready("nobody hears")


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_PID": str(os.getpid())}, None),
    ],
)
def test_notifier_feeds_only_a_watchdog_that_is_its_own(environ, watchdog_s):
    assert Notifier.from_environment(environ).watchdog_s == watchdog_s


def test_notifier_whose_systemd_is_gone_says_so_once_and_goes_on(tmp_path, caplog):
    notifier = Notifier(str(tmp_path / "gone"))
    for _ in range(3):
        notifier.alive()
    assert caplog.text.count("systemd is not reached") == 1
