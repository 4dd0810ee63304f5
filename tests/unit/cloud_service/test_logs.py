import logging

import pytest

from cloud_service.logs import OnlyDiscards, configure
from tests.sim.clock import SimulatedClock


@pytest.fixture
def untouched_logging():
    root, mqtt = logging.getLogger(), logging.getLogger("mqtt")
    before = (root.level, list(root.handlers), mqtt.level, list(mqtt.filters))
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    mqtt.setLevel(before[2])
    mqtt.filters[:] = before[3]


def test_discarded_messages_are_said_once_a_minute_and_nothing_else():
    clock = SimulatedClock()
    only = OnlyDiscards(clock)

    def passes(text: str) -> str | None:
        record = logging.LogRecord("mqtt", logging.WARNING, "", 0, text, (), None)
        return record.getMessage() if only.filter(record) else None

    assert passes("There are 201 pending publish calls.") is None
    assert "send it again" in passes("Message queue is full. Discarding message.")
    assert passes("Message queue is full. Discarding message.") is None
    clock.advance(61)
    assert passes("Message queue is full. Discarding message.") is not None


def test_log_is_one_plain_line_an_event(untouched_logging, capsys):
    configure("info")
    logging.getLogger("cloud_service.x").info("hello %s", "cam-1")
    logging.getLogger("sqlalchemy.engine").info("SELECT 1")
    logging.getLogger("mqtt").warning("There are 201 pending publish calls.")
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("INFO    cloud_service.x: hello cam-1")
