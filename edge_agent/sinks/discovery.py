"""What Home Assistant is told of this device: MQTT discovery's topics and payloads. Pure.

Source: Home Assistant, "MQTT" (discovery topic `<prefix>/<component>/<node_id>/<object_id>/config`, a JSON map,
retained; an empty retained one removes the entity) and "MQTT sensor". Ids may hold letters, digits, `_` and `-` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from edge_agent.outcomes import Outcome
from shared import __version__
from shared.messages import Telemetry

ONLINE, OFFLINE = b"online", b"offline"
_MAX_STATE = 255  # longer states are refused


@dataclass(frozen=True, slots=True)
class Entity:
    """Attributes:
    config: the payload of its discovery topic.
    """

    component: str
    object_id: str
    config: Mapping[str, JsonValue]


_PERCENT: Mapping[str, JsonValue] = {"unit_of_measurement": "%", "state_class": "measurement"}
_DIAGNOSTIC: Mapping[str, JsonValue] = {"entity_category": "diagnostic"}

# Key in the state → component and what Home Assistant has to know of it.
_SENSORS: Mapping[str, tuple[str, Mapping[str, JsonValue]]] = {
    "temperature": (
        "sensor",
        {
            "name": "Temperature",
            "device_class": "temperature",
            "unit_of_measurement": "°C",
            "state_class": "measurement",
            **_DIAGNOSTIC,
        },
    ),
    "battery": ("sensor", {"name": "Battery", "device_class": "battery", **_PERCENT, **_DIAGNOSTIC}),
    "charging": ("binary_sensor", {"name": "Charging", "device_class": "battery_charging", **_DIAGNOSTIC}),
    "cpu": ("sensor", {"name": "CPU", "icon": "mdi:chip", **_PERCENT, **_DIAGNOSTIC}),
    "memory": ("sensor", {"name": "Memory", "icon": "mdi:memory", **_PERCENT, **_DIAGNOSTIC}),
    "disk": ("sensor", {"name": "Disk", "icon": "mdi:harddisk", **_PERCENT, **_DIAGNOSTIC}),
    "bytes_today": (
        "sensor",
        {
            "name": "Bytes today",
            "device_class": "data_size",
            "unit_of_measurement": "B",
            "state_class": "total_increasing",
            **_DIAGNOSTIC,
        },
    ),
    "spool_items": (
        "sensor",
        {"name": "Samples waiting", "icon": "mdi:tray-full", "state_class": "measurement", **_DIAGNOSTIC},
    ),
}


@dataclass(frozen=True, slots=True)
class Place:
    """One device's topics.

    Attributes:
        prefix: of the discovery topics; `base`: of the states.
    """

    prefix: str
    base: str
    site: str
    device: str

    @property
    def node_id(self) -> str:
        """This device among the entities of all."""
        return f"edgeloop--{_id(self.site)}--{_id(self.device)}"

    @property
    def availability(self) -> str:
        """`online` or, also as the last will, `offline`."""
        return f"{self.base}/{self.site}/{self.device}/availability"

    @property
    def state(self) -> str:
        """The sensors."""
        return f"{self.base}/{self.site}/{self.device}/state"

    @property
    def home_status(self) -> str:
        """Where Home Assistant says that it has started."""
        return f"{self.prefix}/status"

    @property
    def every_config(self) -> str:
        """The filter for all that was ever announced for this device."""
        return f"{self.prefix}/+/{self.node_id}/+/config"

    def prediction(self, task: str) -> str:
        """A task's last prediction."""
        return f"{self.base}/{self.site}/{self.device}/tasks/{task}"

    def config(self, entity: Entity) -> str:
        """Where an entity is announced."""
        return f"{self.prefix}/{entity.component}/{self.node_id}/{entity.object_id}/config"


def sensors(place: Place) -> dict[str, Entity]:
    """The agent's sensors by their key in the state; those that the device lacks are not to be announced."""
    found: dict[str, Entity] = {}
    for key, (component, said) in _SENSORS.items():
        template = f"{{{{ value_json.{key} }}}}"
        config = _config(place, key) | {"state_topic": place.state, "value_template": template, **said}
        found[key] = Entity(component, key, config)
    return found


def prediction(place: Place, task: str) -> Entity:
    """A task's last prediction: its label, with confidence and the rest as attributes."""
    object_id = f"{_id(task)}_prediction"
    config = _config(place, object_id) | {
        "name": f"{task} prediction",
        "icon": "mdi:eye",
        "state_topic": place.prediction(task),
        "value_template": "{{ value_json.label }}",
        "json_attributes_topic": place.prediction(task),
    }
    return Entity("sensor", object_id, config)


def state(telemetry: Telemetry) -> dict[str, JsonValue]:
    """The payload of the state topic; None: the device has no such sensor."""
    conditions = telemetry.conditions
    charging = conditions.charging
    return {
        "temperature": None if conditions.temperature_c is None else round(conditions.temperature_c, 1),
        "battery": _percent(conditions.battery),
        "charging": None if charging is None else "ON" if charging else "OFF",
        "cpu": _percent(conditions.cpu),
        "memory": _percent(conditions.memory),
        "disk": _percent(conditions.disk),
        "bytes_today": telemetry.bytes_today,
        "spool_items": telemetry.spool.items,
    }


def last_prediction(outcome: Outcome) -> dict[str, JsonValue]:
    """The payload of a task's topic."""
    return {
        "label": outcome.label[:_MAX_STATE],
        "confidence": round(outcome.confidence, 4),
        "hardness": round(outcome.hardness, 4),
        "answered_by": outcome.answered_by.value,
        "action": outcome.action.value,
        "reason": outcome.reason.value,
        "model_version": outcome.bundle_version,
        "sample_id": str(outcome.sample_id),
    }


def _config(place: Place, object_id: str) -> dict[str, JsonValue]:
    return {
        "unique_id": f"{place.node_id}--{object_id}",
        "availability_topic": place.availability,
        "qos": 1,
        "device": {
            "identifiers": [place.node_id],
            "name": place.device,
            "manufacturer": "edgeloop",
            "model": "edge agent",
            "sw_version": __version__,
        },
        "origin": {"name": "edgeloop", "sw_version": __version__},
    }


def _id(name: str) -> str:
    """A name as part of an id: of what names may hold, only the dot is not allowed there."""
    return name.replace(".", "-dot-")


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 1)
