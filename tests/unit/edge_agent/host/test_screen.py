"""What a person sees of findings and of the device's status."""

import io

import pytest
from rich.console import Console

from edge_agent.host.checks.finding import fail, ok, warn
from edge_agent.host.screen import duration, show_findings, show_status, size


def shown(show, value):
    out = io.StringIO()
    show(value, Console(file=out, width=120))
    return out.getvalue()


def test_findings_are_a_row_each_and_counted():
    text = shown(show_findings, [ok("clock", "fine"), warn("disk", "[slow] card"), fail("broker", "away")])
    assert "[slow] card" in text  # what a finding says is no markup
    assert text.splitlines()[-1] == "1 ok, 1 to look at, 1 to mend"


STATUS = {
    "site": "plant",
    "device": "cam-1",
    "running": True,
    "broker": "broker:8883",
    "tasks": {
        "digits": {"version": "v2", "slot": "b", "previous": "v1"},
        "sounds": {"version": None, "previous": None},
    },
    "spool": {"items": 1234, "bytes": 5_600_000, "oldest_age_s": 7300.0},
    "bytes": {"purposes": {"samples": 1_500_000, "telemetry": 900}, "today": 20_000, "max_per_day": 1_000_000},
    "contacts": {"connected_s_ago": 12.0, "delivered_s_ago": None},
    "counts": {"tasks": {"digits": {"inferences": 100_000, "kept": 90_000}}},
}


def test_status_is_what_an_operator_asks():
    text = shown(show_status, STATUS)
    for words in (
        "plant/cam-1, running",
        "model v2, before it v1",
        "100,000 inferences, 90,000 kept",
        "model none yet",
        "1,234 samples, 5.6 MB, the oldest for 2 h",
        "20.0 kB of 1.0 MB",
        "last connected 12 s ago, last answered never",
        "samples 1.5 MB, telemetry 900 B",
    ):
        assert words in text


def test_status_of_a_new_device_and_of_one_that_cannot_be_read():
    nothing = {"purposes": {}, "today": 0, "max_per_day": None}
    empty = {**STATUS, "running": None, "spool": {"items": 0}, "counts": {}, "bytes": nothing}
    text = shown(show_status, empty)
    assert "only root may look" in text
    assert "nothing" in text
    assert "no such table" in shown(show_status, {**empty, "spool": {"error": "no such table"}})


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (123_456, "123 kB"), (7e15, "7000.0 TB")]
)
def test_sizes_are_for_people(count, words):
    assert size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "less than a second"), (59, "59 s"), (90, "2 min"), (86_400 * 3, "3 d")]
)
def test_durations_are_for_people(seconds, words):
    assert duration(seconds) == words
