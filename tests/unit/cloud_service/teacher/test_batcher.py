import asyncio
import threading

import numpy as np
import pytest

from cloud_service.errors import TeacherError
from cloud_service.teacher.batcher import Batcher


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
        while not (model.batches and batcher._waiting.full()):
            await asyncio.sleep(0)
    assert batcher._waiting.qsize() == 2
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
