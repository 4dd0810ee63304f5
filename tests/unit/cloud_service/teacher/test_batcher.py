import asyncio
import threading

import numpy as np
import pytest

from cloud_service.errors import Expired, TeacherError
from cloud_service.teacher.batcher import Batcher, Priority
from tests.sim.clock import SimulatedClock


class Model:
    """Doubles its input; holds every batch until it is released; fails on 13."""

    def __init__(self, *, held: bool = False):
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        if not held:
            self.gate.set()

    def __call__(self, batch):
        self.batches.append(batch.ravel().tolist())
        self.threads.add(threading.get_ident())
        assert self.gate.wait(10)
        if 13 in batch:
            raise ValueError("thirteen")
        return batch * 2


@pytest.fixture
async def start():
    running = []

    async def begin(model, **limits):
        batcher = Batcher(model, name="model", **limits)
        running.append(asyncio.create_task(batcher.run()))
        return batcher

    yield begin
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


def row(value: int) -> np.ndarray:
    return np.array([value])


async def test_batcher_answers_a_lone_sample_at_once_in_another_thread(start):
    model = Model()
    batcher = await start(model)
    assert await batcher.submit(row(3)) == [6]
    assert model.batches == [[3]]
    assert threading.get_ident() not in model.threads


async def test_batcher_puts_what_waits_into_batches_of_at_most_max_batch(start):
    model = Model(held=True)
    batcher = await start(model, max_batch=4)
    asked = [asyncio.create_task(batcher.submit(row(n))) for n in range(10)]
    async with asyncio.timeout(5):
        while not model.batches:
            await asyncio.sleep(0)
    model.gate.set()
    answers = await asyncio.gather(*asked)
    assert [int(answer[0]) for answer in answers] == [2 * n for n in range(10)]
    assert sorted(n for batch in model.batches for n in batch) == list(range(10))
    assert max(len(batch) for batch in model.batches) == 4
    assert len(model.batches) <= 4


async def test_batcher_fails_a_failing_sample_alone(start):
    model = Model(held=True)
    batcher = await start(model)
    asked = [asyncio.create_task(batcher.submit(row(n))) for n in (1, 13, 2)]
    await asyncio.sleep(0)
    model.gate.set()
    first, bad, second = await asyncio.gather(*asked, return_exceptions=True)
    assert (first, second) == ([2], [4])
    assert isinstance(bad, TeacherError)
    assert "thirteen" in str(bad)
    assert isinstance(bad.__cause__, ValueError)


async def test_batcher_refuses_a_model_that_gives_another_number_of_rows(start):
    batcher = await start(lambda batch: batch[:0])
    with pytest.raises(TeacherError, match="0 rows for 1 samples"):
        await batcher.submit(row(1))


async def test_batcher_makes_askers_wait_when_its_queue_is_full(start):
    model = Model(held=True)
    batcher = await start(model, max_batch=1, max_waiting=2)
    asked = [asyncio.create_task(batcher.submit(row(n))) for n in range(6)]
    async with asyncio.timeout(5):
        while not (model.batches and len(batcher) == 2):
            await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(batcher) == 2
    assert not any(each.done() for each in asked)
    model.gate.set()
    assert len(await asyncio.gather(*asked)) == 6


async def test_batcher_skips_samples_that_nobody_waits_for(start):
    model = Model(held=True)
    batcher = await start(model, max_batch=1)
    first, gone, last = (asyncio.create_task(batcher.submit(row(n))) for n in (1, 2, 3))
    async with asyncio.timeout(5):
        while not model.batches:
            await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    model.gate.set()
    assert await asyncio.gather(first, last) == [[2], [6]]
    assert model.batches == [[1], [3]]


async def test_batcher_fails_a_sample_of_another_shape_alone(start):
    model = Model(held=True)
    batcher = await start(model)
    asked = [asyncio.create_task(batcher.submit(one)) for one in (row(1), np.array([1, 2]), row(2))]
    first = asyncio.create_task(batcher.submit(row(3)))
    await asyncio.sleep(0)
    model.gate.set()
    answers = await asyncio.gather(*asked, first, return_exceptions=True)
    assert [answers[0], answers[2], answers[3]] == [[2], [4], [6]]


async def held(start, *, clock=None, **limits):
    """A batcher whose model is busy with sample 0, and that model."""
    model = Model(held=True)
    batcher = await start(model, clock=clock or SimulatedClock(runs=False), **limits)
    first = asyncio.create_task(batcher.submit(row(0)))
    async with asyncio.timeout(5):
        while not model.batches:
            await asyncio.sleep(0)
    return batcher, model, first


async def ask(batcher, value, priority=Priority.TRAINING, deadline_s=None):
    asking = asyncio.create_task(batcher.submit(row(value), priority=priority, deadline_s=deadline_s))
    await asyncio.sleep(0)
    return asking


def order(model):
    return [value for batch in model.batches[1:] for value in batch]


async def test_batcher_takes_what_is_wanted_before_training_samples_before_audits(start):
    batcher, model, first = await held(start, max_batch=2)
    audit = [await ask(batcher, n, Priority.AUDIT) for n in (31, 32)]
    training = [await ask(batcher, n) for n in (21, 22)]
    wanted = [await ask(batcher, n, Priority.WANTED) for n in (11, 12)]
    model.gate.set()
    await asyncio.gather(first, *audit, *training, *wanted)
    assert model.batches == [[0], [11, 12], [21, 22], [31, 32]]


async def test_batcher_starves_no_priority_however_much_of_a_higher_one_comes(start):
    clock = SimulatedClock(runs=False)
    batcher, model, first = await held(start, clock=clock, max_batch=1)
    asked = [first, await ask(batcher, 31, Priority.AUDIT), await ask(batcher, 21)]
    asked.append(await ask(batcher, 11, Priority.WANTED))
    for second in range(1, 13):
        clock.advance(1.0)
        asked.append(await ask(batcher, 100 + second, Priority.WANTED))
    model.gate.set()
    await asyncio.gather(*asked)
    taken = order(model)
    assert taken[0] == 11
    assert taken.index(21) < taken.index(103)
    assert taken.index(102) < taken.index(31) < taken.index(111)


async def test_batcher_drops_and_counts_what_nobody_waits_for_any_more(start):
    clock = SimulatedClock(runs=False)
    batcher, model, first = await held(start, clock=clock)
    late = await ask(batcher, 1, Priority.WANTED, deadline_s=0.5)
    in_time = await ask(batcher, 2, Priority.WANTED, deadline_s=5.0)
    whenever = await ask(batcher, 3)
    clock.advance(1.0)
    model.gate.set()
    answers = await asyncio.gather(first, late, in_time, whenever, return_exceptions=True)
    assert isinstance(answers[1], Expired)
    assert [answers[0], answers[2], answers[3]] == [[0], [4], [6]]
    assert order(model) == [2, 3]
    assert batcher.expired == 1


async def test_batcher_gives_room_back_for_what_it_drops(start):
    clock = SimulatedClock(runs=False)
    batcher, model, first = await held(start, clock=clock, max_waiting=1)
    late = await ask(batcher, 1, Priority.WANTED, deadline_s=0.5)
    next_one = await ask(batcher, 2)
    clock.advance(1.0)
    model.gate.set()
    await asyncio.gather(first, late, next_one, return_exceptions=True)
    assert order(model) == [2]


async def test_batcher_with_a_window_waits_for_company_when_busy_and_never_when_idle(start):
    batcher, model, first = await held(start, max_batch=4, max_wait_s=30.0)
    assert model.batches == [[0]]  # it was idle, and sent the lone sample at once
    second = await ask(batcher, 1)
    model.gate.set()
    await first
    others = [await ask(batcher, n) for n in (2, 3, 4)]
    async with asyncio.timeout(10):
        await asyncio.gather(second, *others)
    assert model.batches == [[0], [1, 2, 3, 4]]


async def test_batcher_with_a_window_sends_what_there_is_when_it_is_over(start):
    batcher, model, first = await held(start, max_batch=4, max_wait_s=0.01)
    second = await ask(batcher, 1)
    model.gate.set()
    async with asyncio.timeout(10):
        await asyncio.gather(first, second)
    assert model.batches == [[0], [1]]
