import asyncio

import pytest

from cloud_service.leader import Leader
from tests.sim.clock import SimulatedClock


class Job:
    """Something that only one replica may do."""

    def __init__(self):
        self.running = 0
        self.started = 0
        self.fails = False

    async def __call__(self):
        self.running += 1
        self.started += 1
        try:
            if self.fails:
                raise RuntimeError("a defect")
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
    job.fails = True
    _, task = replica(job)
    with pytest.raises(RuntimeError, match="a defect"):
        await task
