import json
import re

import pytest

from edge_agent.sinks import discovery
from edge_agent.sinks.discovery import Place
from shared import __version__
from shared.messages import LedgerBytes, SpoolState, Telemetry
from tests.sim.outcomes import outcome
from tests.sim.served_agent import FULL_TELEMETRY

PLACE = Place("homeassistant", "edgeloop-home", "my.site", "cam-1")
# Home Assistant's documentation of MQTT discovery: what a sensor's configuration may hold, and what an id is made of.
KNOWN_KEYS = {
    "availability_topic", "device", "device_class", "entity_category", "icon", "json_attributes_topic", "name",
    "origin", "qos", "state_class", "state_topic", "unique_id", "unit_of_measurement", "value_template",
}  # fmt: skip
DEVICE_KEYS = {"identifiers", "manufacturer", "model", "name", "sw_version"}
# Units that a device class allows, and the state classes that a unit needs for long-term statistics.
UNITS = {"temperature": "°C", "battery": "%", "data_size": "B"}
ID = re.compile(r"^[a-zA-Z0-9_-]+$")
TOPIC = re.compile(r"^homeassistant/(sensor|binary_sensor)/([^/]+)/([^/]+)/config$")


def entities():
    return [
        *discovery.sensors(PLACE).values(),
        *(discovery.prediction(PLACE, task) for task in ("digits", "a.b", "a-b")),
    ]


@pytest.mark.parametrize("entity", entities(), ids=lambda entity: entity.object_id)
def test_configuration_is_one_that_home_assistant_takes(entity):
    component, node, object_id = TOPIC.match(PLACE.config(entity)).groups()
    assert ID.match(node)
    assert ID.match(object_id)
    config = json.loads(json.dumps(entity.config))
    assert {"unique_id", "state_topic", "device", "origin", "availability_topic", "name"} <= set(config)
    assert set(config) <= KNOWN_KEYS
    assert set(config["device"]) == DEVICE_KEYS
    assert config["device"]["identifiers"] == [PLACE.node_id]
    assert config["device"]["sw_version"] == __version__
    assert config["origin"]["name"] == "edgeloop"
    assert config["availability_topic"] == PLACE.availability
    if component == "sensor" and "device_class" in config:
        assert config["unit_of_measurement"] == UNITS[config["device_class"]]
    if "unit_of_measurement" in config:
        assert config["state_class"] in {"measurement", "total_increasing"}


def test_no_two_entities_share_an_id_or_a_topic():
    found = entities()
    assert len({entity.config["unique_id"] for entity in found}) == len(found)
    assert len({PLACE.config(entity) for entity in found}) == len(found)


def test_every_sensor_reads_a_key_of_the_state():
    state = discovery.state(FULL_TELEMETRY)
    for key, entity in discovery.sensors(PLACE).items():
        assert entity.config["value_template"] == "{{ value_json." + key + " }}"
        assert entity.config["state_topic"] == PLACE.state == "edgeloop-home/my.site/cam-1/state"
        assert state[key] is not None


def test_state_is_in_the_units_that_were_announced():
    assert discovery.state(FULL_TELEMETRY) == {
        "temperature": 48.5,
        "battery": 75.0,
        "charging": "ON",
        "cpu": 20.0,
        "memory": 50.0,
        "disk": 10.0,
        "bytes_today": 120,
        "spool_items": 2,
    }


def test_state_of_a_device_without_sensors():
    bare = Telemetry(seq=1, uptime_s=0.0, tasks={}, ledger=LedgerBytes(), spool=SpoolState())
    state = discovery.state(bare)
    assert {key for key, value in state.items() if value is not None} == {"bytes_today", "spool_items"}


def test_prediction_carries_its_confidence_as_an_attribute():
    entity = discovery.prediction(PLACE, "digits")
    assert entity.config["json_attributes_topic"] == entity.config["state_topic"] == PLACE.prediction("digits")
    got = discovery.last_prediction(outcome(label="x" * 300, confidence=0.123456))
    assert got["label"] == "x" * 255
    assert (got["confidence"], got["answered_by"], got["model_version"]) == (0.1235, "edge", "v1")


def test_filter_of_configurations_covers_every_entity():
    pattern = re.compile("^" + PLACE.every_config.replace("+", "[^/]+") + "$")
    assert all(pattern.match(PLACE.config(entity)) for entity in entities())
