"""Who hangs, and who only has nothing to do."""

import asyncio

from edge_agent.host.pulse import Pulse
from tests.sim.clock import SimulatedClock


def test_pulse_of_an_idle_agent_is_well():
    clock = SimulatedClock()
    pulse = Pulse(monotonic=clock)
    pulse.expect("task digits", 30)
    pulse.rest("task digits")
    pulse.rest("task digits")
    clock.advance(10_000)
    assert pulse.overdue() is None


def test_pulse_names_who_is_late_until_it_is_heard_of_again():
    clock = SimulatedClock()
    pulse = Pulse(monotonic=clock)
    pulse.expect("task digits", 30)
    pulse.expect("task sounds", 90)
    clock.advance(30)
    assert pulse.overdue() is None
    clock.advance(12)
    assert pulse.overdue() == "task digits should have been heard of 12 s ago"
    pulse.expect("task digits", 30)
    assert pulse.overdue() is None
    clock.advance(49)
    assert "digits" in pulse.overdue()
    pulse.rest("task digits")
    assert "sounds" in pulse.overdue()


async def test_pulse_beats_while_its_loop_turns_and_rests_when_it_ends():
    clock = SimulatedClock()
    pulse = Pulse(monotonic=clock)
    beating = asyncio.create_task(pulse.beat("the loop", every_s=0.001, within_s=5))
    await asyncio.sleep(0)
    clock.advance(6)
    assert pulse.overdue() is not None
    async with asyncio.timeout(5):
        while pulse.overdue():
            await asyncio.sleep(0.001)
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)
    clock.advance(6)
    assert pulse.overdue() is None
