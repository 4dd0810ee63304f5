"""MQTT topics `edgeloop/v1/{site}/{device}/{channel}`: built and parsed here and nowhere else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from shared.errors import MalformedFrame

PREFIX = "edgeloop/v1"

# MQTT gives '/', '+', '#' and '$' a meaning of their own, so names keep to what every broker's access rules can match.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
_NAME = re.compile(NAME_PATTERN)


class Channel(StrEnum):
    """What a topic carries; the comment names the direction, QoS and retention."""

    STATE = "state"  # up, QoS 1, retained, also the last will
    TELEMETRY = "telemetry"  # up, QoS 0
    SAMPLE = "sample"  # up, QoS 1
    VERDICT = "verdict"  # down, QoS 1
    RECEIPT = "receipt"  # down, QoS 1
    DESIRED = "desired"  # down, QoS 1, retained
    REPORT = "report"  # up, QoS 1


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic of one device."""

    site: str
    device: str
    channel: Channel

    def __str__(self) -> str:
        return f"{PREFIX}/{self.site}/{self.device}/{self.channel.value}"


def parse(topic: str) -> Topic:
    """Take a topic apart.

    Raises:
        MalformedFrame: the topic is not one of ours.
    """
    parts = topic.split("/")
    if len(parts) != 5 or "/".join(parts[:2]) != PREFIX:
        raise MalformedFrame(f"topic {topic!r} is not of the form {PREFIX}/site/device/channel")
    site, device, channel = parts[2:]
    if not (is_name(site) and is_name(device)):
        raise MalformedFrame(f"topic {topic!r} has a site or device name with characters that are not allowed")
    try:
        return Topic(site, device, Channel(channel))
    except ValueError as err:
        raise MalformedFrame(f"topic {topic!r} names the unknown channel {channel!r}") from err


def is_name(text: str) -> bool:
    """Whether `text` may name a site, a device or a task."""
    return _NAME.fullmatch(text) is not None


def every_device(site: str, channel: Channel, *, group: str = "") -> str:
    """The filter for one channel of all devices of a site; with `group`, shared among the group's members.

    The channel is part of the shared group's name: rumqttd takes groups of one name for one group, whatever their
    filters, and delivers only the first filter's messages.
    """
    pattern = f"{PREFIX}/{site}/+/{channel.value}"
    return f"$share/{group}-{channel.value}/{pattern}" if group else pattern
