"""Is the date right, and does something keep it so?"""

from datetime import UTC, datetime

import pytest

from edge_agent.host.checks.clock import check_clock, kernel_clock_state

NOW = datetime(2026, 11, 24, tzinfo=UTC).timestamp()


def levels(wall, state, *, needs_date=False):
    return [finding.level for finding in check_clock(wall=wall, kernel_state=lambda: state, needs_date=needs_date)]


@pytest.mark.parametrize(
    ("wall", "state", "expected"),
    [
        (NOW, 0, ["ok", "ok"]),
        (NOW, 5, ["ok", "warn"]),  # TIME_ERROR: nothing synchronises it
        (NOW, None, ["ok", "ok"]),
        (0.0, 0, ["warn", "ok"]),  # a board without a battery begins in 1970
        (4e9, 0, ["ok", "ok"]),
        (5e9, 0, ["warn", "ok"]),
        (1e18, 0, ["warn", "ok"]),
    ],
)
def test_clock_is_judged_by_date_and_synchronisation(wall, state, expected):
    assert levels(wall, state) == expected


def test_clock_that_is_wrong_says_what_it_breaks():
    wrong, drifting = check_clock(wall=0.0, kernel_state=lambda: 5, needs_date=True)
    assert "1970-01-01" in wrong.says
    assert "certificates will not be accepted" in wrong.says
    assert "certificates" in drifting.says


def test_kernel_is_asked_without_changing_anything():
    assert kernel_clock_state() in {0, 1, 2, 3, 4, 5, None}
