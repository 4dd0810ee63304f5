import asyncio

import pytest

from cloud_service.errors import StoreError
from cloud_service.leader import Leader
from tests.sim.clock import SimulatedClock


class Job:
    """Something that only one replica may do."""

    def __init__(self):
        self.running = 0
        self.started = 0
        self.fails = None

    async def __call__(self):
        self.running += 1
        self.started += 1
        try:
            if self.fails:
                raise self.fails
            await asyncio.Event().wait()
        finally:
            self.running -= 1


@pytest.fixture
async def replica(database, tmp_path):
    """Starts replicas on one database; gives each one's job and task."""
    clock = SimulatedClock()
    running = []

    def start(job):
        leader = Leader(database, f"sqlite+aiosqlite:///{tmp_path / 'edgeloop.db'}", sleep=clock.sleep)
        running.append(task := asyncio.create_task(leader.run({"job": job})))
        return leader, task

    yield start
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def turns(count=50):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_one_of_two_replicas_leads_and_the_other_one_does_when_it_ends(replica, caplog):
    caplog.set_level("INFO")
    jobs = Job(), Job()
    (first, task), (second, _) = replica(jobs[0]), replica(jobs[1])
    await turns()
    assert (jobs[0].running, jobs[1].running) == (1, 0)
    assert (first.leads, second.leads) == (True, False)
    task.cancel()
    await turns()
    assert (jobs[0].running, jobs[1].running) == (0, 1)
    assert (first.leads, second.leads) == (False, True)
    assert caplog.text.count("this replica leads: it does job for all") == 2


async def test_defect_in_what_the_leader_does_comes_out(replica):
    job = Job()
    job.fails = RuntimeError("a defect")
    _, task = replica(job)
    with pytest.raises(RuntimeError, match="a defect"):
        await task


async def test_failure_of_the_store_in_what_the_leader_does_comes_out_too(replica):
    job = Job()
    job.fails = StoreError("the database failed")
    _, task = replica(job)
    await turns()
    assert job.started == 1
    with pytest.raises(StoreError, match="the database failed"):
        await task


async def test_lock_that_cannot_be_opened_is_said_once_with_a_remedy_and_tried_again(replica, tmp_path, caplog):
    caplog.set_level("INFO")
    in_the_way = tmp_path / "edgeloop.db.leader"
    in_the_way.mkdir()
    leader, task = replica(Job())
    await turns()
    assert not leader.leads
    assert not task.done()
    in_the_way.rmdir()
    await turns()
    assert leader.leads
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if "let this service write to that folder" in line]) == 1
    assert "who leads is known again" in said
