"""What another version has stored is shown as far as it can be read."""

import pytest

from cloud_service.api.readable import readable
from shared.messages import Conditions, LedgerBytes, SpoolState, TaskCounts, Telemetry

WHOLE = Telemetry(
    seq=3,
    uptime_s=1.0,
    tasks={"digits": TaskCounts(inferences=9), "sounds": TaskCounts(inferences=4)},
    ledger=LedgerBytes(),
    spool=SpoolState(items=2),
)
STORED = WHOLE.model_dump(mode="json")
DIGITS = STORED["tasks"]["digits"]


def test_what_this_version_has_stored_is_read_whole():
    assert readable(Telemetry, STORED) == WHOLE
    assert readable(Telemetry, None) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"colour": "blue"},
        {"conditions": "fine"},
        {"conditions": STORED["conditions"] | {"measures": ["pause", 7]}},
        {"conditions": STORED["conditions"] | {"moon": 1, "sun": [1, 2]}},
        {"tasks": STORED["tasks"] | {"digits": DIGITS | {"a": 1, "b": 2}}},
        {"tasks": STORED["tasks"] | {"no/name": DIGITS}},
        {"bytes_today": -1, "budgets": {"digits": 7}},
    ],
)
def test_what_is_not_known_is_left_out_alone(changes):
    before = STORED | changes
    assert readable(Telemetry, before) == WHOLE
    assert before == STORED | changes


def test_part_that_lacks_something_is_left_out_whole():
    class Strict(Telemetry):
        limits: dict[str, Telemetry] = {}  # noqa: RUF012  # pydantic copies it

    lacking = {name: value for name, value in STORED.items() if name != "seq"}
    read = readable(Strict, STORED | {"limits": {"a": lacking, "b": STORED}})
    assert read == Strict(**dict(WHOLE), limits={"b": WHOLE})


@pytest.mark.parametrize("changes", [{"seq": "many"}, {"spool": {"items": -1} | {"bytes": "x"}, "seq": None}])
def test_message_that_lacks_something_is_not_read(changes):
    assert readable(Telemetry, STORED | changes) is None
    assert readable(Telemetry, {}) is None
    assert readable(Conditions, {"x": 1}) == Conditions()
