import asyncio

import pytest

from edge_agent.uplink.flights import Flights


class Landing:
    """Flights that land when they are told to."""

    def __init__(self):
        self.open = []
        self.done = []

    async def fly(self, number):
        landing = asyncio.get_running_loop().create_future()
        self.open.append(landing)
        await landing
        self.done.append(number)


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("limits", "sizes"), [((2, 1000), (1, 1, 1)), ((9, 100), (60, 40, 1))])
async def test_room_is_found_when_an_earlier_flight_lands(limits, sizes):
    landing = Landing()
    async with Flights(max_count=limits[0], max_bytes=limits[1]) as flights:
        for number, size in enumerate(sizes[:2]):
            await flights.room(size)
            flights.begin("f", landing.fly(number), size=size)
        waiting = asyncio.create_task(flights.room(sizes[2]))
        await turns()
        assert not waiting.done()
        landing.open[1].set_result(None)
        await asyncio.wait_for(waiting, 5)


async def test_one_that_is_larger_than_all_room_goes_alone():
    landing = Landing()
    async with Flights(max_count=9, max_bytes=100) as flights:
        await flights.room(5_000)
        flights.begin("f", landing.fly(0), size=5_000)
        waiting = asyncio.create_task(flights.room(1))
        await turns()
        assert not waiting.done()
        landing.open[0].set_result(None)
        await asyncio.wait_for(waiting, 5)


async def test_others_get_a_turn_between_two_flights():
    async with Flights(max_count=100, max_bytes=1000) as flights:
        counted = []

        async def count():
            while len(counted) < 10:
                counted.append(1)
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        for _ in range(10):
            await flights.room(1)
            flights.begin("f", turns(1), size=1)
        assert len(counted) >= 9
        await counting


async def test_all_end_with_the_connection():
    landing = Landing()
    async with Flights(max_count=9, max_bytes=100) as flights:
        for number in range(3):
            flights.begin("f", landing.fly(number), size=1)
        await turns()
    assert [each.cancelled() for each in landing.open] == [True] * 3
    assert landing.done == []


async def test_failure_comes_out_and_does_not_stop_the_others():
    landing = Landing()

    async def fail():
        raise ZeroDivisionError

    async with Flights(max_count=9, max_bytes=100) as flights:
        failing = asyncio.create_task(flights.failure())
        flights.begin("f", landing.fly(1), size=1)
        await turns()
        flights.begin("f", fail(), size=1)
        flights.begin("f", fail(), size=1)
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(failing, 5)
        landing.open[0].set_result(None)
        await turns()
    assert landing.done == [1]


async def test_without_a_failure_it_waits_until_it_is_cancelled():
    async with Flights(max_count=9, max_bytes=100) as flights:
        failing = asyncio.create_task(flights.failure())
        flights.begin("f", turns(), size=1)
        await turns(20)
        assert not failing.done()
        failing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await failing
