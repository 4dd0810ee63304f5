"""How a sample's way to its verdict ends, whatever breaks on it."""

import asyncio
import logging
from uuid import uuid4

import numpy as np
import pytest

from cloud_service.answering import Answering, Counts, Work
from cloud_service.downlink import Receipts
from cloud_service.errors import TeacherError
from cloud_service.latencies import Latencies
from cloud_service.notices import Recurring
from tests.sim.ingest import until


class FailingTeacher:
    """Fails in the way it is told to."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def answer(self, _tensor, *, priority, deadline_s=None):
        raise self._error


class BrokenStore:
    """Has a defect."""

    async def fail(self, _sample_id, _failure):
        raise ZeroDivisionError("a defect of the store")


@pytest.mark.parametrize("error", [RuntimeError("a defect of the teacher"), TeacherError("it fails on this one")])
async def test_defect_on_the_way_ends_its_sample_and_is_logged_whole(downlink, clock, caplog, error):
    freed, released = asyncio.Event(), []
    answering = Answering(
        teachers={"digits": FailingTeacher(error)},
        top_k={},
        samples=BrokenStore(),
        downlink=downlink,
        receipts=Receipts(downlink),
        faults=Recurring(logging.getLogger("faults-test"), clock=clock),
        counts=Counts(),
        latencies=Latencies(),
        limit=8,
        batch=8,
        freed=freed,
        clock=clock,
    )
    work = Work(uuid4(), "cam-1", "digits", np.zeros(4, np.uint8), clock(), stored=True)
    work.release = lambda: released.append(work.sample_id)
    answering.begin(work)
    assert answering.has(work.sample_id)
    await until(lambda: answering.idle)
    assert released == [work.sample_id]
    assert freed.is_set()
    assert [record.exc_info is not None for record in caplog.records if "a defect" in record.message] == [True]
