import asyncio
import threading

import pytest

from edge_agent.errors import Overloaded
from edge_agent.server.workers import Workers


@pytest.fixture
def workers():
    made = Workers(threads=2, max_waiting=1)
    yield made
    made.close()
    for thread in made._threads:
        thread.join(5)


async def test_result_and_fault_come_back(workers):
    def fail():
        raise ZeroDivisionError

    assert await workers.run(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await workers.run(fail)


async def test_as_many_run_at_once_as_there_are_threads(workers):
    both = threading.Barrier(2, timeout=5)
    await asyncio.gather(workers.run(both.wait), workers.run(both.wait))


async def test_place_is_given_back_whatever_happens(workers):
    for _ in range(5):
        with pytest.raises(ZeroDivisionError), workers.admitted():
            raise ZeroDivisionError
    places = [workers.admitted() for _ in range(3)]
    for place in places:
        place.__enter__()
    with pytest.raises(Overloaded, match="3 requests are under way"), workers.admitted():
        pass


async def test_what_was_cancelled_before_it_began_never_runs(workers):
    go, ran = threading.Event(), []
    running = [asyncio.create_task(workers.run(go.wait)) for _ in range(2)]
    waiting = asyncio.create_task(workers.run(lambda: ran.append(1)))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    go.set()
    await asyncio.gather(*running)
    await workers.run(int)
    assert ran == []


def test_threads_end_with_the_server_and_hold_up_no_end():
    workers = Workers(threads=1, max_waiting=0)
    (thread,) = workers._threads
    assert thread.daemon
    workers.close()
    thread.join(5)
    assert not thread.is_alive()
