"""docs/protocol.md and docs/asyncapi.yaml say what the code does, all of it, and nothing else."""

import inspect
import json
import re
from enum import StrEnum
from pathlib import Path

import numpy as np
import pytest

from scripts.make_asyncapi import CARRIED, document, render
from shared import bundle, codec, messages
from shared.messages import Message, decode_sample, encode_sample
from shared.topics import NAME_PATTERN, Channel

DOCS = Path(__file__).resolve().parents[3] / "docs"
PROTOCOL = (DOCS / "protocol.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^#{2,3} (.+?)\n(.*?)(?=^#{2,3} |\Z)", PROTOCOL, re.MULTILINE | re.DOTALL))

CLASSES = [each for _, each in inspect.getmembers(messages, inspect.isclass) if each.__module__ == messages.__name__]
MODELS = [each for each in CLASSES if issubclass(each, Message) and each is not Message]
ENUMS = [each for each in CLASSES if issubclass(each, StrEnum)]


def rows(section: str) -> list[list[str]]:
    """A section's table rows that begin with a word in backticks."""
    return [
        [cell.strip() for cell in row.strip("|").split("|")] for row in re.findall(r"^\| `.*$", section, re.MULTILINE)
    ]


def first_cells(name: str) -> list[str]:
    return [row[0].strip("`") for row in rows(SECTIONS[name])]


@pytest.mark.parametrize("model", MODELS, ids=lambda each: each.__name__)
def test_every_field_is_documented_in_order(model):
    assert first_cells(model.__name__) == list(model.model_fields)


@pytest.mark.parametrize("model", MODELS, ids=lambda each: each.__name__)
def test_defaults_are_documented(model):
    said = {row[0].strip("`"): "default" in row[1] for row in rows(SECTIONS[model.__name__])}
    optional = {name: not field.is_required() for name, field in model.model_fields.items()}
    assert said == optional | {"schema_version": False}


@pytest.mark.parametrize("enum", ENUMS, ids=lambda each: each.__name__)
def test_every_member_is_documented_in_order(enum):
    assert first_cells(enum.__name__) == [member.value for member in enum]


def test_every_channel_is_documented_with_direction_qos_and_retention():
    said = {row[0].strip("`"): row[1:4] for row in rows(SECTIONS["Topics"])}
    assert said == {
        channel.value: ["up" if c.up else "down", str(c.qos), "yes" if c.retain else "no"]
        for channel, c in CARRIED.items()
    }
    assert set(CARRIED) == set(Channel)
    assert f"`{NAME_PATTERN}`" in SECTIONS["Topics"]


def test_example_decodes_to_what_the_page_says():
    frame = bytes.fromhex("".join(re.search(r"```hex\n(.*?)```", PROTOCOL, re.DOTALL)[1].split()))
    header, tensor = decode_sample(frame)
    assert (header.task, header.hardness, header.reason) == ("digits", 0.5, messages.Reason.HARD)
    assert (tensor.dtype, tensor.tolist()) == (np.uint8, [[0, 3], [16, 9]])
    assert encode_sample(header, tensor) == frame
    assert f"{len(frame)} bytes" in PROTOCOL


def test_element_tags_are_the_codecs():
    said = dict(re.findall(r"\b(u?int\d+|float\d+) \| (\d+)", PROTOCOL))
    assert said == {dtype.name: str(tag) for dtype, tag in codec._TAG_OF.items()}


def test_limits_are_the_codes():
    limits = SECTIONS["Limits"]
    assert f"{codec.MAX_FRAME_BYTES:,} bytes" in limits
    assert f"| nesting | {codec.MAX_DEPTH} |" in limits
    assert f"| axes of an array | {codec.MAX_DIMENSIONS} |" in limits
    assert (bundle.MAX_BUNDLE_BYTES, bundle.MAX_MANIFEST_BYTES) == (2 * 1024**3, 4 * 1024**2)
    assert f"at present {messages.SCHEMA_VERSION}." in SECTIONS["Messages"]


def test_links_lead_somewhere():
    headings = {re.sub(r"[^a-z0-9 -]", "", name.lower()).replace(" ", "-") for name in SECTIONS}
    for target in re.findall(r"\]\(([^)]+)\)", PROTOCOL):
        if target.startswith("#"):
            assert target[1:] in headings, target
        else:
            assert (DOCS / target).exists(), target


def test_asyncapi_document_is_what_the_generator_writes():
    written = (DOCS / "asyncapi.yaml").read_text(encoding="utf-8")
    assert written == render(), "type: python scripts/make_asyncapi.py"


def test_asyncapi_yaml_reads_back_as_the_document():
    lines = [line for line in render().splitlines() if not line.startswith("#")]
    value, rest = read_block(lines, 0)
    assert rest == []
    assert value == document()


def test_asyncapi_references_resolve():
    whole = document()
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(whole)):
        place = whole
        for key in reference.split("/"):
            place = place[key]
        assert place


def test_asyncapi_describes_every_channel_and_model():
    whole = document()
    assert list(whole["channels"]) == [channel.value for channel in Channel]
    assert {model.__name__ for model in MODELS} <= whole["components"]["schemas"].keys()
    actions = {name: operation["action"] for name, operation in whole["operations"].items()}
    assert (actions["receiveSample"], actions["sendVerdict"]) == ("receive", "send")


def read_block(lines: list[str], indent: int) -> tuple[object, list[str]]:
    """The block YAML that the generator writes: maps, lists, JSON scalars."""
    pad = "  " * indent
    if lines[0].startswith(pad + "-"):
        items = []
        while lines and lines[0].startswith(pad + "-"):
            item, lines = read_entry(lines, len(pad) + 1, indent)
            items.append(item)
        return items, lines
    found: dict[str, object] = {}
    while lines and lines[0].startswith(pad) and lines[0][len(pad)] not in " -":
        key = re.match(r'"[^"]*"|[^:]+', lines[0][len(pad) :])[0]
        found[key.strip('"')], lines = read_entry(lines, len(pad) + len(key) + 1, indent)
    return found, lines


def read_entry(lines: list[str], at: int, indent: int) -> tuple[object, list[str]]:
    rest = lines[0][at:].strip()
    return (json.loads(rest), lines[1:]) if rest else read_block(lines[1:], indent + 1)
