"""Moments as people write them, and the command that gives the next page."""

from datetime import datetime, timedelta, timezone

import pytest

from cloud_service.cli_filters import command, moment
from cloud_service.cli_remote import LOCAL
from shared.errors import SettingsError

ZONE = timezone(timedelta(hours=2))
NOW = datetime(2026, 11, 24, 14, 5, 11, 500, tzinfo=ZONE)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("today", datetime(2026, 11, 24, tzinfo=ZONE)),
        ("90m", datetime(2026, 11, 24, 12, 35, 11, 500, tzinfo=ZONE)),
        ("24h", datetime(2026, 11, 23, 14, 5, 11, 500, tzinfo=ZONE)),
        ("7d", datetime(2026, 11, 17, 14, 5, 11, 500, tzinfo=ZONE)),
        ("2w", datetime(2026, 11, 10, 14, 5, 11, 500, tzinfo=ZONE)),
        ("2026-11-20", datetime(2026, 11, 20, tzinfo=ZONE)),
        ("2026-11-20T08:30", datetime(2026, 11, 20, 8, 30, tzinfo=ZONE)),
        ("2026-11-20T08:30Z", datetime(2026, 11, 20, 10, 30, tzinfo=ZONE)),
    ],
)
def test_moments_are_read_in_the_zone_of_the_reader(text, at):
    assert moment(text, NOW) == at


@pytest.mark.parametrize("text", ["", "yesterday", "5", "-5h", "999999w", "2026-13-01", "24 h"])
def test_moment_that_cannot_be_read_says_how_to_write_one(text):
    with pytest.raises(SettingsError, match="90m, 24h, 7d"):
        moment(text, NOW)


def test_command_of_the_next_page_can_be_pasted(monkeypatch):
    monkeypatch.delenv("EDGELOOP_URL", raising=False)
    query = {"task": "a b", "device": None, "labelled": False, "min_hardness": 0.5, "after": "AAA"}
    asked = "edgeloop samples list --task 'a b' --unlabelled --min-hardness 0.5 --after AAA"
    assert command("samples list", query, url=LOCAL) == asked
    assert command("samples list", query, url="http://c:1") == f"{asked} --url http://c:1"
    monkeypatch.setenv("EDGELOOP_URL", "http://c:1")
    assert command("samples list", query, url="http://c:1") == asked
    assert command("samples list", {"labelled": True}, url=LOCAL) == "edgeloop samples list --labelled"
