"""How the sample commands say which samples they mean, and moments as people write them."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated

import typer

from cloud_service.cli_remote import LOCAL
from shared.errors import SettingsError

Device = Annotated[str | None, typer.Option(help="Only of this device.")]
Label = Annotated[str | None, typer.Option(help="Only what counts as this label: a person's, else the teacher's.")]
HumanLabel = Annotated[str | None, typer.Option(help="Only what a person labelled so.")]
Reason = Annotated[str | None, typer.Option(help="Only what was sent for this reason: hard, audit, …")]
Teacher = Annotated[str | None, typer.Option(help="Only what this teacher (its version) answered.")]
Bundle = Annotated[str | None, typer.Option(help="Only what this bundle (its version) found hard.")]
Labelled = Annotated[
    bool | None, typer.Option("--labelled/--unlabelled", help="Only with, or without, a person's label.")
]
Since = Annotated[
    str | None, typer.Option(help="Stored since then: today, 90m, 24h, 7d, 2026-11-24, 2026-11-24T08:00.")
]
Until = Annotated[str | None, typer.Option(help="Stored before then, written likewise.")]
MinHardness = Annotated[float | None, typer.Option(help="Only with this score or more.")]
MaxHardness = Annotated[float | None, typer.Option(help="Only with this score or less.")]

_AGO = re.compile(r"(\d{1,6})(m|h|d|w)")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_FLAGS = {True: "--labelled", False: "--unlabelled"}


def scope(
    *,
    task: str | None,
    device: str | None,
    label: str | None,
    human_label: str | None,
    reason: str | None,
    teacher: str | None,
    bundle: str | None,
    labelled: bool | None,
    since: str | None,
    until: str | None,
    min_hardness: float | None,
    max_hardness: float | None,
) -> dict[str, object]:
    """The options as the API's query; what was not given is None.

    Raises:
        SettingsError: a moment that cannot be read.
    """
    now = datetime.now().astimezone()
    return {
        "task": task,
        "device": device,
        "label": label,
        "human_label": human_label,
        "reason": reason,
        "teacher": teacher,
        "bundle": bundle,
        "labelled": labelled,
        "since": None if since is None else moment(since, now).isoformat(),
        "until": None if until is None else moment(until, now).isoformat(),
        "min_hardness": min_hardness,
        "max_hardness": max_hardness,
    }


def moment(text: str, now: datetime) -> datetime:
    """A moment as people write it, in the time zone of `now` where the text has none.

    Raises:
        SettingsError: it cannot be read.
    """
    if text == "today":
        return now.replace(hour=0, minute=0, second=0, microsecond=0)
    ago = _AGO.fullmatch(text)
    try:
        if ago:
            return now - int(ago[1]) * _UNITS[ago[2]]
        at = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as err:
        raise SettingsError(
            f"{text!r} is no moment: write today, 90m, 24h, 7d, 2026-11-24 or 2026-11-24T08:00"
        ) from err
    return at if at.tzinfo else at.replace(tzinfo=now.tzinfo)


def command(words: str, query: Mapping[str, object], *, url: str) -> str:
    """The command line that asks this."""
    parts = ["edgeloop", *shlex.split(words)]
    for name, value in query.items():
        if isinstance(value, bool):
            parts.append(_FLAGS[value])
        elif value is not None:
            parts += [f"--{name.replace('_', '-')}", str(value)]
    if url not in (LOCAL, os.environ.get("EDGELOOP_URL")):
        parts += ["--url", url]
    return shlex.join(parts)
