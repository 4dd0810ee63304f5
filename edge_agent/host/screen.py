"""What `edge-agent status` and `edge-agent doctor` show on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge_agent.host.checks.finding import Finding, Level

_COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}
_UNITS = ("B", "kB", "MB", "GB", "TB")
_STEPS_S = ((86_400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


def show_findings(findings: Sequence[Finding], console: Console) -> None:
    """A row a check, and one line of summary."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for column in ("check", "level", "found"):
        table.add_column(column, no_wrap=column != "found")
    for finding in findings:
        level = Text(finding.level.value, style=_COLOURS[finding.level])
        table.add_row(finding.check, level, Text(finding.says))
    console.print(table)
    counts = {level: sum(finding.level is level for finding in findings) for level in Level}
    console.print(f"{counts[Level.OK]} ok, {counts[Level.WARN]} to look at, {counts[Level.FAIL]} to mend")


def show_status(status: dict[str, Any], console: Console) -> None:
    """A table of what `read_status` found."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column("what", no_wrap=True)
    table.add_column("is")
    for what, words in _status_rows(status):
        table.add_row(what, Text(words))
    console.print(table)


def _status_rows(status: dict[str, Any]) -> Iterator[tuple[str, str]]:
    running = {True: "running", False: "not running", None: "unknown: only root may look"}[status["running"]]
    yield "agent", f"{status['site']}/{status['device']}, {running}"
    yield "broker", status["broker"]
    connected, delivered = (status["contacts"][f"{what}_s_ago"] for what in ("connected", "delivered"))
    yield "", f"last connected {_ago(connected)}, last answered {_ago(delivered)}"
    for name, task in status["tasks"].items():
        version = task["version"] or "none yet"
        previous = f", before it {task['previous']}" if task["previous"] else ""
        yield f"task {name}", f"model {version}{previous}"
        counts = status["counts"].get("tasks", {}).get(name, {})
        if counts:
            yield "", ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items()))
    yield "waiting", _spool_words(status["spool"])
    traffic = status["bytes"]
    cap = f" of {size(traffic['max_per_day'])}" if traffic["max_per_day"] else ""
    purposes = ", ".join(f"{what} {size(count)}" for what, count in sorted(traffic["purposes"].items()))
    yield "bytes today", f"{size(traffic['today'])}{cap}"
    yield "bytes ever", purposes or "none"


def _spool_words(spool: dict[str, Any]) -> str:
    if "error" in spool:
        return str(spool["error"])
    if not spool["items"]:
        return "nothing"
    return f"{spool['items']:,} samples, {size(spool['bytes'])}, the oldest for {duration(spool['oldest_age_s'])}"


def _ago(seconds: float | None) -> str:
    return "never" if seconds is None else f"{duration(seconds)} ago"


def size(count: float) -> str:
    """Bytes for people, in powers of 1,000."""
    for unit in _UNITS[:-1]:
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} {_UNITS[-1]}"


def duration(seconds: float) -> str:
    """Seconds for people."""
    for step_s, unit in _STEPS_S:
        if seconds >= step_s:
            return f"{seconds / step_s:.0f} {unit}"
    return "less than a second"
