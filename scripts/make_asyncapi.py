"""Write docs/asyncapi.yaml, the protocol for machines, from messages and topics: `python scripts/make_asyncapi.py`."""

import inspect
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared import __version__
from shared.messages import Desired, DeviceState, Message, Receipt, Report, SampleHeader, Telemetry, Verdict
from shared.topics import PREFIX, Channel

TARGET = Path(__file__).resolve().parent.parent / "docs" / "asyncapi.yaml"


@dataclass(frozen=True, slots=True)
class Carried:
    """What one channel carries; `up` is from the device to the cloud."""

    message: type[Message]
    up: bool
    qos: int
    retain: bool
    summary: str


CARRIED = {
    Channel.STATE: Carried(
        DeviceState, up=True, qos=1, retain=True, summary="What the device runs; its last will says it is gone."
    ),
    Channel.TELEMETRY: Carried(Telemetry, up=True, qos=0, retain=False, summary="The device's regular report."),
    Channel.SAMPLE: Carried(
        SampleHeader, up=True, qos=1, retain=False, summary="A sample that the device found hard, or drew for an audit."
    ),
    Channel.VERDICT: Carried(Verdict, up=False, qos=1, retain=False, summary="The teacher's answer to one sample."),
    Channel.RECEIPT: Carried(
        Receipt, up=False, qos=1, retain=False, summary="What the device may let go of, accepted or refused."
    ),
    Channel.DESIRED: Carried(
        Desired, up=False, qos=1, retain=True, summary="Which bundle the device should run, task by task."
    ),
    Channel.REPORT: Carried(Report, up=True, qos=1, retain=False, summary="How an update ended on the device."),
}


def main() -> int:
    """Write the file; say whether it changed."""
    text = render()
    changed = not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text
    TARGET.write_text(text, encoding="utf-8")
    print(f"{TARGET}: {'written' if changed else 'was up to date'}")
    return 0


def render() -> str:
    """The whole document as YAML."""
    return "# Made by scripts/make_asyncapi.py; change the messages or that script, not this file.\n" + yaml(document())


def document() -> dict[str, Any]:
    """The AsyncAPI 3 document, seen from the cloud service: it receives what goes up and sends what goes down."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "edgeloop",
            "version": __version__,
            "description": "Messages between edge agents and the cloud service. docs/protocol.md explains them.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/cbor",
        "servers": {
            "broker": {
                "host": "{host}:{port}",
                "protocol": "mqtt",
                "protocolVersion": "5",
                "variables": {"host": {"default": "127.0.0.1"}, "port": {"default": "1883"}},
            }
        },
        "channels": {channel.value: describe_channel(channel) for channel in Channel},
        "operations": {operation_name(channel): describe_operation(channel) for channel in Channel},
        "components": {
            "messages": {message_name(channel): describe_message(channel) for channel in Channel},
            "schemas": schemas(),
        },
    }


def describe_channel(channel: Channel) -> dict[str, Any]:
    """One topic."""
    name = message_name(channel)
    return {
        "address": f"{PREFIX}/{{site}}/{{device}}/{channel.value}",
        "summary": CARRIED[channel].summary,
        "parameters": {"site": {"description": "The site's name."}, "device": {"description": "The device's name."}},
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
    }


def describe_operation(channel: Channel) -> dict[str, Any]:
    """What the cloud service does with a channel."""
    carried = CARRIED[channel]
    return {
        "action": "receive" if carried.up else "send",
        "channel": {"$ref": f"#/channels/{channel.value}"},
        "summary": carried.summary,
        "bindings": {"mqtt": {"qos": carried.qos, "retain": carried.retain}},
    }


def describe_message(channel: Channel) -> dict[str, Any]:
    """A message and where its schema is."""
    name = message_name(channel)
    summary = CARRIED[channel].summary
    return {"name": name, "summary": summary, "payload": {"$ref": f"#/components/schemas/{name}"}}


def message_name(channel: Channel) -> str:
    """A sample is the only message that is more than one model."""
    return "Sample" if channel is Channel.SAMPLE else CARRIED[channel].message.__name__


def operation_name(channel: Channel) -> str:
    """A verb and the channel: receiveSample, sendVerdict."""
    return ("receive" if CARRIED[channel].up else "send") + channel.value.capitalize()


def schemas() -> dict[str, Any]:
    """JSON schemas of every model on the wire, by name."""
    found: dict[str, Any] = {}
    for carried in CARRIED.values():
        schema = carried.message.model_json_schema(ref_template="#/components/schemas/{model}")
        found.update(schema.pop("$defs", {}))
        found[carried.message.__name__] = schema
    for name, schema in found.items():
        schema["description"] = first_sentence(schema.get("description", name))
    found["Sample"] = {
        "type": "object",
        "description": "A sample's header and its raw tensor.",
        "properties": {
            "header": {"$ref": "#/components/schemas/SampleHeader"},
            "tensor": {
                "description": "CBOR tag 40 (RFC 8746): the shape, then a typed array of little-endian elements.",
                "x-cbor-tag": 40,
            },
        },
        "required": ["header", "tensor"],
        "additionalProperties": False,
    }
    return dict(sorted(found.items()))


def first_sentence(docstring: str) -> str:
    """A docstring up to its list of attributes, on one line."""
    return " ".join(inspect.cleandoc(docstring).split("Attributes:")[0].split())


def yaml(value: object, indent: int = 0) -> str:
    """Maps, lists and scalars as block YAML; scalars are written as JSON, which YAML includes."""
    pad = "  " * indent
    if isinstance(value, dict) and value:
        return "".join(f"{pad}{key_text(key)}:{entry(item, indent)}" for key, item in value.items())
    if isinstance(value, list) and value:
        return "".join(f"{pad}-{entry(item, indent)}" for item in value)
    return f"{pad}{json.dumps(value, ensure_ascii=False)}\n"


def entry(item: object, indent: int) -> str:
    """What stands behind a key or dash: a scalar on the same line, or a block below it."""
    nested = isinstance(item, dict | list) and item
    return "\n" + yaml(item, indent + 1) if nested else " " + yaml(item)


def key_text(key: str) -> str:
    """Plain where it can be."""
    return key if key.replace("-", "").replace("_", "").isalnum() else json.dumps(key)


if __name__ == "__main__":
    sys.exit(main())
