import logging

import pytest

from edge_agent.ledger import Ledger, Purpose
from edge_agent.uplink.allowance import Allowance


class SpentLedger:
    """A ledger with a cap of 10,000 bytes a day; `spent` is set by the test."""

    capped = True

    def __init__(self):
        self.spent = self.number = 0

    def spend(self, purpose, count):
        return self.spent + count <= 10_000

    def fits_a_day(self, count):
        return count <= 10_000

    def day(self):
        return self.number


@pytest.fixture
def ledger():
    ledger = SpentLedger()
    ledger.spent = 9_000
    return ledger


def lines(caplog):
    return [(record.levelname, record.getMessage().split(":")[0]) for record in caplog.records]


def test_without_a_cap_nothing_needs_to_be_asked(tmp_path):
    allowance = Allowance(Ledger(tmp_path / "ledger.json"))
    assert allowance.unlimited
    assert allowance.spend(Purpose.SAMPLES, 10**12)
    assert not allowance.spent


def test_what_does_not_fit_is_refused_and_said_once(ledger, caplog):
    allowance = Allowance(ledger)
    assert not allowance.unlimited
    assert allowance.spend(Purpose.SAMPLES, 1_000)
    assert not allowance.spent
    assert [allowance.spend(Purpose.SAMPLES, 1_001) for _ in range(5)] == [False] * 5
    assert allowance.spent
    assert len(caplog.records) == 1
    assert "1001 bytes more are over the cap" in caplog.text


def test_what_no_day_has_room_for_is_said_once_and_spends_no_day(ledger, caplog):
    allowance = Allowance(ledger)
    assert [allowance.spend(Purpose.SAMPLES, 10_001) for _ in range(3)] == [False] * 3
    assert [allowance.ever(count) for count in (10_001, 10_000)] == [False, True]
    assert not allowance.spent
    assert allowance.spend(Purpose.SAMPLES, 1_000)
    assert [level for level, _ in lines(caplog)] == ["ERROR"]


def test_less_may_still_fit(ledger):
    allowance = Allowance(ledger)
    assert not allowance.spend(Purpose.SAMPLES, 5_000)
    assert allowance.spend(Purpose.SAMPLES, 400)


def test_new_day_is_said_once_and_allows_again(ledger, caplog):
    caplog.set_level(logging.INFO)
    allowance = Allowance(ledger)
    assert not allowance.spend(Purpose.SAMPLES, 5_000)
    ledger.spent, ledger.number = 0, 1
    assert allowance.spend(Purpose.SAMPLES, 5_000)
    assert not allowance.spent
    assert [level for level, _ in lines(caplog)] == ["WARNING", "INFO"]
    ledger.spent = 9_000
    assert not allowance.spend(Purpose.SAMPLES, 5_000)
    assert [level for level, _ in lines(caplog)] == ["WARNING", "INFO", "WARNING"]


def test_new_day_is_noticed_whatever_was_spent_in_it_already(ledger):
    allowance = Allowance(ledger)
    assert not allowance.spend(Purpose.SAMPLES, 5_000)
    ledger.number = 1
    assert not allowance.spent
