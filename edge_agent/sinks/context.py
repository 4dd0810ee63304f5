"""What a sink that needs the network knows of the agent it speaks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from shared.messages import Telemetry
from shared.mqtt import BrokerSettings, Connector, connector


@dataclass(frozen=True, slots=True)
class SinkContext:
    """Attributes:
    site, device: this device's name.
    tasks: the names of its tasks.
    broker: the agent's own, for a sink that names none.
    telemetry: counts, bytes, and what the sensors say; called in the agent's event loop.
    telemetry_interval_s: how often it is told.
    book: told of the bytes of each message that goes out, and whether the day's cap counts them.
    connect: connections to a broker; for tests.
    """

    site: str
    device: str
    tasks: Sequence[str]
    broker: BrokerSettings
    telemetry: Callable[[], Telemetry]
    telemetry_interval_s: float
    book: Callable[[int, bool], None] = lambda _count, _in_day: None
    rng: Random = field(default_factory=Random)
    connect: Callable[[BrokerSettings], Connector] = connector

    @property
    def origin(self) -> Mapping[str, str]:
        """Who speaks, for a record that leaves the device."""
        return {"site": self.site, "device": self.device}

    def client_id(self, sink: str) -> str:
        """An MQTT client id of the sink's own: two connections with one id end each other."""
        return f"edge-{self.site}-{self.device}-{sink}"
