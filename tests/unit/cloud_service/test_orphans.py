"""Samples that nobody answered are found, and found again while their verdict is not stored; see also test_ingest."""

import logging

import pytest

from cloud_service.answering import Counts
from cloud_service.orphans import Orphans
from cloud_service.storage.samples import NewSample
from tests.sim.bundles import sample
from tests.sim.device import header
from tests.sim.stored import says


class Asked:
    """What is being answered; `end` ends all of it, as if no verdict could be stored."""

    def __init__(self):
        self.ids = []
        self.under_way = set()

    def room(self):
        return 1

    def has(self, sample_id):
        return sample_id in self.under_way

    def begin(self, work):
        self.ids.append(work.sample_id)
        self.under_way.add(work.sample_id)

    def end(self):
        self.under_way.clear()


@pytest.fixture
def asked():
    return Asked()


@pytest.fixture
def orphans(samples, asked):
    return Orphans(samples, asked, tasks=["digits"], counts=Counts(), after_s=0.0, batch=2, clock=lambda: 0.0)


async def test_sample_is_asked_for_again_until_its_verdict_is_stored(samples, orphans, asked):
    waiting = [NewSample("cam-1", header(), sample(n)) for n in range(5)]
    ids = [one.header.sample_id for one in waiting]
    await samples.add(waiting)
    await orphans.adopt()
    await orphans.adopt()
    assert asked.ids == ids
    asked.end()
    await samples.answer([(one, says(1)) for one in ids[1:3]])
    await orphans.adopt()
    assert asked.ids[5:] == [ids[0], *ids[3:]]
    await samples.answer([(one, says(1)) for one in ids])
    asked.end()
    await orphans.adopt()
    assert len(asked.ids) == 8


async def test_payload_that_cannot_be_read_now_is_read_later(samples, blobs, orphans, asked):
    one = NewSample("cam-1", header(), sample(1))
    await samples.add([one])
    blobs.broken = True
    await orphans.adopt()
    assert asked.ids == []
    blobs.broken = False
    await orphans.adopt()
    assert asked.ids == [one.header.sample_id]


async def test_sample_that_can_never_be_answered_is_named_once(samples, blobs, orphans, asked, caplog):
    waiting, lost, odd = [NewSample("cam-1", header(task=task), sample(1)) for task in ("digits", "digits", "sounds")]
    await samples.add([waiting])
    kept = dict(blobs.blobs)
    await samples.add([lost])
    blobs.blobs = kept
    await samples.add([odd])
    with caplog.at_level(logging.ERROR, "cloud_service.orphans"):
        for _ in range(3):
            await orphans.adopt()
            asked.end()
    assert asked.ids == [waiting.header.sample_id] * 3
    assert [str(lost.header.sample_id) in record.message for record in caplog.records] == [True]
