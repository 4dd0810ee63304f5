"""Is the device's date right? Certificates need it; nothing else does. No network is asked."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from edge_agent.host.checks.finding import Finding, ok, warn

# Before this release was made, and after any certificate's end.
_EARLIEST = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
_LATEST = datetime(2100, 1, 1, tzinfo=UTC).timestamp()
_UNSYNCHRONISED = 5  # TIME_ERROR of adjtimex(2)
_TIMEX_BYTES = 512  # the kernel's structure has 208 at most


def check_clock(*, wall: float, kernel_state: Callable[[], int | None], needs_date: bool) -> Iterator[Finding]:
    """Findings on the date and on what keeps it.

    Args:
        wall: seconds since 1970.
        kernel_state: what adjtimex(2) returns; None: it cannot be asked.
        needs_date: certificates are used.
    """
    if not _EARLIEST <= wall < _LATEST:
        date = datetime.fromtimestamp(max(0.0, wall), UTC).date() if wall < 1e11 else "beyond reason"
        because = "certificates will not be accepted" if needs_date else "log lines and file times are wrong"
        yield warn("clock", f"the date is {date}, {because}: set it, or let NTP (timedatectl set-ntp true)")
    else:
        yield ok("clock", f"the date is {datetime.fromtimestamp(wall, UTC):%Y-%m-%d %H:%M} UTC")
    state = kernel_state()
    if state is None:
        yield ok("clock", "the kernel does not say whether NTP keeps the clock")
    elif state == _UNSYNCHRONISED:
        consequence = "certificates may be refused as it drifts" if needs_date else "it may drift"
        yield warn("clock", f"nothing synchronises the clock, {consequence}: timedatectl set-ntp true, or chrony")
    else:
        yield ok("clock", "the clock is synchronised")


def kernel_clock_state() -> int | None:
    """What adjtimex(2) returns when asked and told nothing: the state of the kernel's clock."""
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):  # a C library without it
        return None
    state = int(adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))
    return state if state >= 0 else None
