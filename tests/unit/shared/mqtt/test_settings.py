import pytest
from pydantic import ValidationError

from shared.mqtt import BrokerSettings


@pytest.mark.parametrize(
    "fields",
    [
        {"port": 0},
        {"port": 65_536},
        {"in_flight": 0},
        {"keepalive_s": 1},
        {"reconnect_first_s": 0},
        {"reconnect_first_s": 61.0},
        {"hots": "x"},
        {"host": ""},
        {"cert_file": "c.pem", "key_file": "k.pem"},  # without ca_file nothing would be encrypted
        {"ca_file": "ca.pem", "key_file": "k.pem"},
        {"password": "p"},
    ],
)
def test_impossible_broker_settings_are_refused(fields):
    with pytest.raises(ValidationError):
        BrokerSettings(**fields)


def test_password_is_not_shown():
    settings = BrokerSettings(username="u", password="secret-word")
    assert "secret-word" not in repr(settings)
    assert settings.address == "127.0.0.1:1883"
