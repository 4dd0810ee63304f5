"""The embedded broker's decisions; tests/e2e/test_brokers.py runs it."""

import os
import signal
import socket
import threading

import pytest

from cloud_service.broker.embedded import (
    HOST,
    LABEL,
    announce,
    broker_config,
    check_port_is_free,
    run_until_signalled,
    set_nodelay_on_listener,
)
from shared.errors import BrokerUnavailable


def test_config_listens_on_loopback_only():
    config = broker_config(1883, max_payload_bytes=1000)
    assert 'listen = "127.0.0.1:1883"' in config
    assert "0.0.0.0" not in config


def test_config_speaks_mqtt5_with_shared_subscriptions_and_the_payload_limit():
    config = broker_config(1883, max_payload_bytes=1000)
    assert "[v5.1]" in config
    assert "[v4" not in config
    assert "dynamic_filters = true" in config
    assert "max_payload_size = 1000" in config


def test_label_says_what_it_is_for():
    assert "for demonstration and development only" in LABEL


def test_check_port_taken_says_what_to_do():
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(BrokerUnavailable, match=rf"127\.0\.0\.1:{port} .*--port"):
            check_port_is_free(port)


def test_check_port_out_of_range_says_what_to_do():
    with pytest.raises(BrokerUnavailable, match="--port"):
        check_port_is_free(70_000)


def test_announce_calls_back_when_the_port_accepts():
    said = []
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        announce(other.getsockname()[1], lambda: said.append("ready"))
    assert said == ["ready"]


def test_run_that_ends_by_itself_is_an_error():
    with pytest.raises(BrokerUnavailable, match="ended by itself"):
        run_until_signalled(lambda: None, lambda: None)


def test_run_that_raises_is_logged_and_an_error(caplog):
    def fail() -> None:
        raise OSError("no threads left")

    with pytest.raises(BrokerUnavailable, match="ended by itself"):
        run_until_signalled(fail, lambda: None)
    assert "no threads left" in caplog.text


def test_run_returns_on_sigterm_and_restores_the_handlers():
    before = signal.getsignal(signal.SIGTERM)
    forever = threading.Event()
    run_until_signalled(lambda: forever.wait(30) or None, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert signal.getsignal(signal.SIGTERM) is before
    forever.set()


def test_nodelay_set_on_the_listener_holds_for_what_it_accepts():
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert set_nodelay_on_listener(port)
        with socket.create_connection((HOST, port)), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_nodelay_without_a_listener_on_the_port_says_so():
    with socket.socket() as bound:
        bound.bind((HOST, 0))
        assert not set_nodelay_on_listener(bound.getsockname()[1])
