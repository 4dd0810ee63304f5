import asyncio
import threading
import time

from edge_agent.sinks.handover import Handover
from tests.sim.outcomes import outcome

RECORDS = [outcome(seq=n) for n in range(20)]


def seqs(records):
    return [record.seq for record in records]


def filled(count, *, max_queued=10):
    handover = Handover("there", max_queued=max_queued, linger_s=0)
    for record in RECORDS[:count]:
        handover.put(record)
    return handover


async def test_records_come_out_in_order_and_in_bounds():
    handover = filled(5)
    assert seqs(await handover.take(3)) == [0, 1, 2]
    assert seqs(await handover.take(3)) == [3, 4]
    assert handover.take_now(3) == []
    assert len(handover) == 0


async def test_taker_waits_for_what_another_thread_puts():
    handover = filled(0)
    taking = asyncio.create_task(handover.take(10))
    while not handover._asleep:
        await asyncio.sleep(0)
    await asyncio.to_thread(handover.put, RECORDS[0])
    async with asyncio.timeout(5):
        assert seqs(await taking) == [0]


async def test_no_record_is_overlooked_however_the_threads_meet():
    handover = Handover("there", max_queued=100_000, linger_s=0)
    count = 20_000
    maker = threading.Thread(target=lambda: [handover.put(outcome(seq=n)) for n in range(count)])
    maker.start()
    taken = []
    async with asyncio.timeout(30):
        while len(taken) < count:
            taken += await handover.take(7)
    maker.join()
    assert seqs(taken) == list(range(count))


async def test_full_queue_drops_the_oldest_and_says_so_once_and_when_it_is_over(caplog):
    caplog.set_level("INFO")
    handover = filled(15)
    assert (len(handover), handover.dropped) == (10, 5)
    assert caplog.text.count("10 records wait for there: the oldest are dropped") == 1
    assert seqs(await handover.take(100)) == list(range(5, 15))
    waiting = asyncio.create_task(handover.take(1))
    await asyncio.sleep(0)
    assert caplog.text.count("there has caught up; 5 records were lost") == 1
    for record in RECORDS[:11]:
        handover.put(record)
    assert caplog.text.count("the oldest are dropped") == 2
    await waiting


async def test_records_put_back_come_first_and_give_way_when_there_is_no_room():
    handover = filled(6)
    taken = handover.take_now(4)
    handover.put_back(taken)
    assert seqs(handover.take_now(10)) == [0, 1, 2, 3, 4, 5]
    handover = filled(6)
    taken = handover.take_now(4)
    for record in RECORDS[6:14]:
        handover.put(record)
    handover.put_back(taken)
    assert handover.dropped == 4
    assert seqs(handover.take_now(20)) == list(range(4, 14))


async def test_nothing_is_lost_when_the_taker_is_cancelled():
    handover = filled(0)
    taking = asyncio.create_task(handover.take(10))
    await asyncio.sleep(0)
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    handover.put(RECORDS[0])
    assert seqs(await handover.take(10)) == [0]


def test_record_put_after_the_loop_has_ended_harms_nobody():
    handover = Handover("there", max_queued=10, linger_s=0)

    async def take():
        taking = asyncio.create_task(handover.take(10))
        while not handover._asleep:
            await asyncio.sleep(0)
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)

    asyncio.run(take())
    handover.put(RECORDS[0])
    assert len(handover) == 1


async def test_steady_stream_never_holds_up_its_maker():
    handover = Handover("there", max_queued=100_000)
    taking = asyncio.create_task(handover.take(10))
    while not handover._asleep:
        await asyncio.sleep(0.01)
    record, rounds = RECORDS[0], []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(2_000):
            handover.put(record)
        rounds.append((time.perf_counter() - began) / 2_000 * 1e6)
    print(f"put: {min(rounds):.2f} µs")
    assert min(rounds) < 100.0  # it takes 0.7; a wait for the network would be a thousand times that
    await taking
