"""What a run shows: one line while it lasts, a table in the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from cloud_service.simulate.fleet import Report
from cloud_service.simulate.tally import Tally

# Without a terminal a line is kept, so there are fewer.
_EVERY_S = 10.0

_COUNTS = (
    ("samples", "made by the devices"),
    ("dropped", "not made: the device kept as many as it may"),
    ("transmissions", "sample frames sent"),
    ("resent", "of these, repeated for want of an answer"),
    ("duplicates", "sent twice on purpose"),
    ("verdicts", "samples that the teacher answered"),
    ("late", "of these, after their deadline"),
    ("receipted", "named by a receipt before their verdict"),
    ("refused", "that the service will never take"),
    ("lost", "kept and unanswered at the end"),
    ("repeated", "answers that nobody waited for any more"),
    ("unreadable", "messages down that are not of the contract"),
    ("broker_refused", "messages that the broker did not take"),
    ("connections", "opened"),
    ("disconnects", "lost or left"),
    ("failed", "connections that did not open"),
)
_TIMES = (
    ("verdict_ms", "from a sample to its verdict"),
    ("receipt_ms", "from a sample to its receipt"),
    ("late_start_ms", "from a sample to its first transmission"),
)


class LiveLine:
    """Prints on stderr, so that the report alone is on stdout."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._next = 0.0

    def show(self, tally: Tally, online: int, seconds: float) -> None:
        """The newest counts."""
        now = time.monotonic()
        if not self._terminal and now < self._next:
            return
        self._next = now + _EVERY_S
        p99 = tally.verdict.quantile_s(0.99)
        line = (
            f"{seconds:6.1f} s  {online:,} connected  {tally.samples:,} samples  {tally.verdicts:,} verdicts  "
            f"{tally.receipted:,} receipted  {tally.resent:,} resent  {tally.dropped:,} dropped"
            + ("" if p99 is None else f"  p99 {p99 * 1e3:.0f} ms")
        )
        before, after = ("\r", "\x1b[K") if self._terminal else ("", "\n")
        sys.stderr.write(f"{before}{line}{after}")
        sys.stderr.flush()

    def end(self) -> None:
        """Leave the line."""
        if self._terminal:
            sys.stderr.write("\n")


def print_report(report: Report) -> None:
    """The table on stdout."""
    values = report.as_json()
    table = Table(title=f"{report.devices:,} devices, {report.seconds:.1f} s", title_justify="left")
    table.add_column("what")
    table.add_column("count", justify="right")
    table.add_column("meaning")
    for name, meaning in _COUNTS:
        table.add_row(name, f"{values[name]:,}", meaning)
    spoilt = report.tally.spoilt
    table.add_row(
        "spoilt", f"{spoilt.total():,}", ", ".join(f"{kind} {count:,}" for kind, count in sorted(spoilt.items()))
    )
    table.add_section()
    for name, meaning in _TIMES:
        times = values[name]
        assert isinstance(times, Mapping)
        text = ", ".join(f"{key} {value:,.1f}" for key, value in times.items() if value is not None)
        table.add_row(name, "", f"{meaning}: {text or 'none'}")
    Console(width=None if sys.stdout.isatty() else 160).print(table)
