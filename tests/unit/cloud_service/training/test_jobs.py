"""Jobs with a stand-in for the pipeline, real child processes and a real database."""

import asyncio
import json
from contextlib import asynccontextmanager

import numpy as np
import pytest

from cloud_service.errors import Conflict, NotFound
from cloud_service.rollouts.driver import DeploymentFilter
from cloud_service.settings import RolloutMode
from cloud_service.storage.models import JobState
from cloud_service.storage.samples import Answer, NewSample
from cloud_service.training.job_table import MAX_WAITING, JobTable
from cloud_service.training.jobs import MAX_ATTEMPTS, JobParts, Jobs
from shared.messages import DeviceState, TaskState
from tests.sim.bundles import make, sample
from tests.sim.device import header
from tests.sim.pipeline import COMMAND


@pytest.fixture
def build(database, samples, registry, rollouts, fleet, digits_task, tmp_path):
    def jobs(mode="pass", *, rollout=RolloutMode.MANUAL, min_samples=0):
        training = digits_task.training.model_copy(update={"min_samples": min_samples, "seed": 3})
        served = digits_task.model_copy(update={"rollout": rollout, "training": training})
        parts = JobParts(JobTable(database), samples, registry, rollouts, fleet)
        return Jobs(parts, tasks={"digits": served}, folder=tmp_path / "jobs", command=(*COMMAND, mode))

    return jobs


@asynccontextmanager
async def running(jobs):
    work = asyncio.create_task(jobs.run())
    try:
        yield
    finally:
        work.cancel()
        result = (await asyncio.gather(work, return_exceptions=True))[0]
        assert isinstance(result, asyncio.CancelledError), result


async def ended(jobs, job_id, *, timeout_s=30.0):
    async with asyncio.timeout(timeout_s):
        while (row := await jobs.get(job_id)).state in ("queued", "running"):
            await asyncio.sleep(0.01)
    return row


async def started(folder, times=1):
    async with asyncio.timeout(30):
        while not (folder / "starts").exists() or len((folder / "starts").read_text().split()) < times:
            await asyncio.sleep(0.01)


async def store(samples, count, *, answered=True):
    made = [NewSample("cam-1", header(inclusion_probability=0.5), sample(n % 10)) for n in range(count)]
    await samples.add(made)
    if answered:
        says = Answer(np.full(10, 0.1, np.float32), "t1")
        await samples.answer([(one.header.sample_id, says) for one in made])


async def test_job_gets_its_data_and_its_candidate_is_registered(build, samples, registry, tmp_path):
    make(tmp_path / "v1", version="v1")
    old = await registry.add(tmp_path / "v1", origin="upload")
    await store(samples, 3)
    jobs = build()
    async with running(jobs):
        row = await ended(jobs, (await jobs.submit("digits", seed=7)).id)
    assert (row.state, row.version, row.samples, row.attempts) == ("succeeded", "digits-1", 3, 1)
    assert row.progress["distill"] == {"done": 2, "total": 2, "message": "done"}
    assert row.report["expected_agreement"] == 0.99
    folder = tmp_path / "jobs" / row.id
    with np.load(folder / "samples.npz") as arrays:
        assert np.array_equal(arrays["x"], [sample(0), sample(1), sample(2)])
        assert arrays["teacher_probs"].shape == (3, 10)
        assert arrays["weight"].tolist() == [2.0, 2.0, 2.0]
        assert arrays["order"].tolist() == sorted(arrays["order"].tolist())
    assert (folder / "incumbent.bundle").read_bytes() == registry.file(old.sha256).read_bytes()
    request = json.loads((folder / "request.json").read_text())
    assert request["task"]["training"]["seed"] == 7
    assert "rollout" not in request["task"]
    bundle = await registry.get("digits", "digits-1")
    assert (bundle.origin, bundle.shippable) == (f"job:{row.id}", True)


async def test_without_samples_and_incumbent_a_job_runs_too(build, tmp_path):
    jobs = build()
    async with running(jobs):
        row = await ended(jobs, (await jobs.submit("digits")).id)
    assert (row.state, row.seed) == ("succeeded", 3)
    assert not (tmp_path / "jobs" / row.id / "samples.npz").exists()
    assert not (tmp_path / "jobs" / row.id / "incumbent.bundle").exists()


async def test_incumbent_is_what_most_devices_run(build, fleet, registry, tmp_path):
    rows = []
    for n in range(3):
        make(tmp_path / "b", version=f"v{n}", shift=n)
        rows.append(await registry.add(tmp_path / "b", origin="upload"))
    for name, row in (("a", rows[0]), ("b", rows[1]), ("c", rows[1])):
        state = TaskState(bundle_version=row.version, bundle_sha256=row.sha256)
        fleet.saw(name, DeviceState(online=True, tasks={"digits": state}))
    await fleet.flush()
    assert await build()._incumbent("digits") == registry.file(rows[1].sha256)


@pytest.mark.parametrize("mode", [RolloutMode.AUTO, RolloutMode.MANUAL])
async def test_candidate_goes_to_the_devices_only_where_the_task_says_auto(build, fleet, rollouts, mode):
    state = TaskState(bundle_version="v1", bundle_sha256="a" * 64)
    fleet.saw("cam-1", DeviceState(online=True, tasks={"digits": state}))
    fleet.saw("cam-2", DeviceState(online=True, tasks={"sounds": state}))
    await fleet.flush()
    jobs = build(rollout=mode)
    async with running(jobs):
        await ended(jobs, (await jobs.submit("digits")).id)
    sent = [row.device for row in await rollouts.deployments(DeploymentFilter())]
    assert sent == (["cam-1"] if mode is RolloutMode.AUTO else [])


async def test_rejected_candidate_is_kept_and_never_shipped(build, fleet, rollouts, registry):
    state = TaskState(bundle_version="v1", bundle_sha256="a" * 64)
    fleet.saw("cam-1", DeviceState(online=True, tasks={"digits": state}))
    await fleet.flush()
    jobs = build("reject", rollout=RolloutMode.AUTO)
    async with running(jobs):
        row = await ended(jobs, (await jobs.submit("digits")).id)
    assert (row.state, row.message) == ("rejected", "accuracy fell; it is too large")
    assert not (await registry.get("digits", row.version)).shippable
    assert await rollouts.deployments(DeploymentFilter()) == []


@pytest.mark.parametrize(("mode", "words"), [("fail", "the data is bad"), ("crash", "log.txt")])
async def test_failed_run_says_why_and_the_next_job_runs(build, mode, words):
    jobs = build(mode)
    async with running(jobs):
        first = await jobs.submit("digits")
        second = await jobs.submit("digits")
        row = await ended(jobs, first.id)
        await ended(jobs, second.id)
    assert row.state == "failed"
    assert words in row.message


async def test_noise_on_stdout_is_no_progress_and_no_harm(build):
    jobs = build("noise")
    async with running(jobs):
        row = await ended(jobs, (await jobs.submit("digits")).id)
    assert row.state == "succeeded"
    assert set(row.progress) == {"distill"}


async def test_job_that_was_cut_off_goes_on_in_its_folder(build, tmp_path):
    jobs = build("hang-once")
    job = await jobs.submit("digits")
    folder = tmp_path / "jobs" / job.id
    async with running(jobs):
        await started(folder)
    assert (await jobs.get(job.id)).state == "running"
    request = (folder / "request.json").read_bytes()
    later = await jobs.submit("digits")
    async with running(build("hang-once")):
        row = await ended(jobs, job.id)
        assert (await jobs.get(later.id)).state in ("queued", "running")
    assert (row.state, row.attempts) == ("succeeded", 2)
    assert (folder / "request.json").read_bytes() == request


async def test_job_that_never_ends_is_given_up(build, database):
    jobs = build()
    job = await jobs.submit("digits")
    await JobTable(database).change(job.id, {"state": "running", "attempts": MAX_ATTEMPTS})
    async with running(jobs):
        row = await ended(jobs, job.id)
    assert row.state == "failed"
    assert "3 times" in row.message


async def test_cancelled_job_ends_its_process_and_stays_cancelled(build, database, tmp_path):
    jobs = build("hang")
    async with running(jobs):
        job = await jobs.submit("digits")
        waiting = await jobs.submit("digits")
        await started(tmp_path / "jobs" / job.id)
        assert (await jobs.cancel(waiting.id)).state == "cancelled"
        assert (await jobs.cancel(job.id)).state == "cancelled"
        assert not (tmp_path / "jobs" / job.id / "pid").exists()
    with pytest.raises(Conflict, match="cancelled"):
        await jobs.cancel(job.id)
    await JobTable(database).end(job.id, JobState.SUCCEEDED, "too late")
    assert (await jobs.get(job.id)).state == "cancelled"


async def test_job_that_is_cancelled_at_another_replica_ends_its_process(build, tmp_path):
    leader, other = build("hang"), build("hang")
    async with running(leader):
        job = await leader.submit("digits")
        folder = tmp_path / "jobs" / job.id
        await started(folder)
        assert (await other.cancel(job.id)).state == "cancelled"
        async with asyncio.timeout(20):
            while (folder / "pid").exists():
                await asyncio.sleep(0.01)
    assert (await other.get(job.id)).state == "cancelled"


async def test_enough_new_samples_start_a_job_and_are_not_counted_twice(build, samples):
    jobs = build(min_samples=4)
    await store(samples, 3)
    await store(samples, 5, answered=False)
    await jobs._trigger()
    assert await jobs.all() == []
    await store(samples, 1)
    await jobs._trigger()
    await jobs._trigger()
    [job] = await jobs.all()
    assert job.trigger == "samples"
    async with running(jobs):
        await ended(jobs, job.id)
        await jobs._trigger()
    assert len(await jobs.all()) == 1


async def test_jobs_are_refused_for_unknown_tasks_and_long_queues(build):
    jobs = build()
    with pytest.raises(NotFound, match="the service serves: digits"):
        await jobs.submit("sounds")
    for _ in range(MAX_WAITING):
        await jobs.submit("digits")
    with pytest.raises(Conflict, match="wait already"):
        await jobs.submit("digits")
    with pytest.raises(NotFound):
        await jobs.get("none")


async def test_versions_do_not_collide_with_uploaded_ones(build, registry, tmp_path):
    make(tmp_path / "b", version="digits-1")
    await registry.add(tmp_path / "b", origin="upload")
    jobs = build()
    async with running(jobs):
        row = await ended(jobs, (await jobs.submit("digits")).id)
    assert row.version == f"digits-1-{row.id[-6:]}"


async def test_job_cancelled_in_the_moment_it_is_chosen_never_starts(build, database, tmp_path):
    jobs = build()
    await jobs.submit("digits")
    chosen = await JobTable(database).next({"digits"})
    await jobs.cancel(chosen.id)
    await jobs._work(chosen)
    assert not (tmp_path / "jobs" / chosen.id / "starts").exists()
    assert (await jobs.get(chosen.id)).state == "cancelled"


async def test_devices_that_run_what_the_registry_has_not_are_named_as_uncompared(build, fleet, caplog):
    state = TaskState(bundle_version="factory", bundle_sha256="a" * 64)
    fleet.saw("cam-1", DeviceState(online=True, tasks={"digits": state}))
    await fleet.flush()
    assert await build()._incumbent("digits") is None
    assert "held against nothing" in caplog.text
