import asyncio

import pytest

from shared.errors import ConnectionLost
from shared.mqtt.owed import Debt, Owed
from tests.sim.clock import SimulatedClock


def debt(size=10, *, waited_for=True):
    return Debt("t", size, asyncio.get_running_loop().create_future() if waited_for else None)


async def test_answer_reaches_whoever_waits_for_it_and_is_paid():
    owed = Owed(clock=SimulatedClock())
    first, second = debt(10), debt(20)
    owed.expect(1, first)
    owed.expect(2, second)
    assert (len(owed), owed.bytes) == (2, 30)
    assert owed.settle(2, "answer") is second
    assert await second.waiter == "answer"
    assert (len(owed), owed.bytes, first.waiter.done()) == (1, 10, False)


async def test_answer_that_nobody_expects_or_waits_for_any_more_is_fine():
    owed = Owed(clock=SimulatedClock())
    assert owed.settle(7, "x") is None
    given_up, posted = debt(), debt(waited_for=False)
    owed.expect(1, given_up)
    owed.expect(2, posted)
    given_up.waiter.cancel()
    owed.settle(1, "x")
    assert owed.settle(2, "x") is posted
    assert (len(owed), owed.bytes) == (0, 0)


async def test_end_of_the_connection_reaches_all_who_wait():
    owed = Owed(clock=SimulatedClock())
    waiting, given_up, posted = debt(), debt(), debt(waited_for=False)
    for mid, each in enumerate((waiting, given_up, posted), start=1):
        owed.expect(mid, each)
    given_up.waiter.cancel()
    owed.fail("the line broke")
    with pytest.raises(ConnectionLost, match="the line broke"):
        await waiting.waiter
    assert (len(owed), owed.bytes) == (0, 0)


async def test_silence_is_overdue_after_twenty_seconds_and_later_on_a_slow_line():
    clock = SimulatedClock()
    owed = Owed(clock=clock)
    clock.advance(3_600)
    assert owed.overdue_s() is None
    owed.expect(1, debt(0))
    clock.advance(19.9)
    assert owed.overdue_s() is None
    clock.advance(0.2)
    assert owed.overdue_s() == pytest.approx(20.1)
    owed.expect(2, debt(80_000))  # ten seconds more, at 8 kB/s
    assert owed.overdue_s() is None
    clock.advance(10.0)
    assert owed.overdue_s() == pytest.approx(30.1)


async def test_each_answer_begins_the_patience_anew():
    clock = SimulatedClock()
    owed = Owed(clock=clock)
    for mid in range(1, 6):
        owed.expect(mid, debt(0))
    for mid in range(1, 5):
        clock.advance(15.0)
        owed.settle(mid, "x")
        assert owed.overdue_s() is None
    clock.advance(20.1)
    assert owed.overdue_s() is not None


async def test_round_trip_is_of_what_left_while_nothing_else_waited():
    clock = SimulatedClock()
    owed = Owed(clock=clock)
    owed.expect(1, debt())
    owed.expect(2, debt())
    clock.advance(0.2)
    owed.settle(1, "x")
    clock.advance(5.0)
    owed.settle(2, "x")
    assert owed.round_trip_s == pytest.approx(0.2)
    owed.expect(3, debt(), from_afar=False)
    clock.advance(9.0)
    owed.settle(3, "x")
    assert owed.round_trip_s == pytest.approx(0.2)
