import asyncio

import pytest

from tests.sim.clock import SimulatedClock


async def test_running_clock_is_moved_by_sleeping():
    clock = SimulatedClock(start=10.0)
    await clock.sleep(2.5)
    await clock.sleep(0)
    assert (clock(), clock.sleeps) == (12.5, [2.5, 0])


async def test_standing_clock_wakes_those_whose_time_has_come():
    clock = SimulatedClock(runs=False)
    short, long = (asyncio.create_task(clock.sleep(seconds)) for seconds in (1.0, 2.0))
    await asyncio.sleep(0)
    assert clock.sleeping == 2
    clock.advance(1.5)
    await short
    assert not long.done()
    clock.advance(0.5)
    await long
    assert clock.sleeping == 0


async def test_cancelled_sleep_is_forgotten():
    clock = SimulatedClock(runs=False)
    sleeper = asyncio.create_task(clock.sleep(1.0))
    await asyncio.sleep(0)
    sleeper.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeper
    assert clock.sleeping == 0


def test_clock_never_goes_back():
    with pytest.raises(ValueError, match="monotonic"):
        SimulatedClock().advance(-1)
