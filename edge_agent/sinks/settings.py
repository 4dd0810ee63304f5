"""Where outcomes and corrections go."""

from __future__ import annotations

import string
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from shared.mqtt import BrokerSettings
from shared.settings import Section

PLACEHOLDERS = frozenset({"site", "device", "task", "kind"})


class Only(StrEnum):
    """Which records are told; a correction is told unless its verdict only agreed and `CHANGED` is asked for."""

    ALL = "all"
    CHANGED = "changed"
    HARD = "hard"


class MqttOutcomeSettings(Section):
    """Outcomes as JSON on an MQTT topic.

    Attributes:
        topic: `{site}`, `{device}`, `{task}` and `{kind}` (outcome or correction) are filled in.
        broker: its own table; without one the agent's broker, by a connection of its own.
        qos: 1: until the broker has it, twice after an outage at worst; 0: once at most.
        retain_last: the broker keeps the last record of each topic for who comes later.
        only: `all`; `changed`: another label than the task's last one; `hard`: all but what the model was sure of.
        max_queued: records that wait in memory while the broker is away; the oldest are dropped.
        counts_in_day: their bytes count in the day that `[ledger] max_bytes_per_day` caps, which never holds them up.
    """

    topic: Annotated[str, Field(min_length=1, max_length=500)]
    broker: BrokerSettings | None = None
    qos: Literal[0, 1] = 1
    retain_last: bool = False
    only: Only = Only.ALL
    max_queued: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    counts_in_day: bool = False

    @field_validator("topic")
    @classmethod
    def _can_be_published_to(cls, topic: str) -> str:
        try:
            named = {field for _, field, _, _ in string.Formatter().parse(topic) if field is not None}
        except ValueError as err:
            raise ValueError(f"{topic!r} has a brace that is not closed") from err
        if not named <= PLACEHOLDERS:
            raise ValueError(f"{sorted(named - PLACEHOLDERS)} cannot be filled in; known: {sorted(PLACEHOLDERS)}")
        if set("+#\0") & set(topic) or topic.startswith("$"):
            raise ValueError(f"{topic!r} is no topic to publish to: it has +, # or begins with $")
        return topic


class WebhookSettings(Section):
    """Outcomes as JSON, posted to a URL.

    Attributes:
        url: takes a POST and answers with 2xx; redirects are not followed. Logs name its host alone.
        headers: sent with every request, a token for instance.
        timeout_s: for one request.
        batch: records in one request; 1: the body is one object, more: a list.
        tries: for a request that the receiver fails on (5xx); one that is away (no answer, 429, 502 to 504) is awaited.
        retry_first_s, retry_cap_s: bounds of the first and of the longest wait between two tries.
        only: `all`; `changed`: another label than the task's last one; `hard`: all but what the model was sure of.
        max_queued: records that wait in memory while the receiver is away; the oldest are dropped.
        counts_in_day: their bytes count in the day that `[ledger] max_bytes_per_day` caps, which never holds them up.
    """

    url: Annotated[str, Field(pattern=r"^https?://[^\s/]", max_length=2_000)]
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    timeout_s: Annotated[float, Field(gt=0)] = 10.0
    batch: Annotated[int, Field(ge=1, le=1_000)] = 1
    tries: Annotated[int, Field(ge=1)] = 8
    retry_first_s: Annotated[float, Field(gt=0)] = 0.5
    retry_cap_s: Annotated[float, Field(gt=0)] = 60.0
    only: Only = Only.ALL
    max_queued: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    counts_in_day: bool = False

    @model_validator(mode="after")
    def _fit_together(self) -> WebhookSettings:
        if self.retry_first_s > self.retry_cap_s:
            raise ValueError("retry_first_s is above retry_cap_s")
        return self


class HomeAssistantSettings(Section):
    """The agent as a device in Home Assistant, by MQTT discovery: its sensors, and each task's last prediction.

    Attributes:
        enabled: off by default.
        discovery_prefix: as in Home Assistant's MQTT integration.
        base_topic: states are published below `<base_topic>/<site>/<device>`.
        broker: its own table; without one the agent's broker, by a connection of its own.
        min_interval_s: a prediction that changes more often is told this often.
        counts_in_day: its bytes count in the day that `[ledger] max_bytes_per_day` caps, which never holds them up.
    """

    enabled: bool = False
    discovery_prefix: Annotated[str, Field(pattern=r"^[^+#$\s][^+#\s]*[^/+#\s]$")] = "homeassistant"
    base_topic: Annotated[str, Field(pattern=r"^[^+#$\s][^+#\s]*[^/+#\s]$")] = "edgeloop-home"
    broker: BrokerSettings | None = None
    min_interval_s: Annotated[float, Field(gt=0)] = 1.0
    counts_in_day: bool = False


class OutcomeSettings(Section):
    """Where outcomes and corrections go; any of these, at once. As JSON lines:

    Attributes:
        path: None: no file; "-": standard output.
        max_bytes: the file is moved to `<path>.1` when it reaches this.
    """

    path: Path | None = None
    max_bytes: Annotated[int, Field(ge=65_536)] = 64 * 1024**2
    mqtt: MqttOutcomeSettings | None = None
    webhook: WebhookSettings | None = None
    home_assistant: HomeAssistantSettings = HomeAssistantSettings()
