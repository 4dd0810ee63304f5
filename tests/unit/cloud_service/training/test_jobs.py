"""Jobs with a stand-in for the pipeline, real child processes and a real database."""

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest

from cloud_service.errors import Conflict, NotFound, StoreError
from cloud_service.estimates.drift import Alarm, Evidence
from cloud_service.rollouts.driver import DeploymentFilter
from cloud_service.settings import RolloutMode
from cloud_service.storage.models import JobState
from cloud_service.storage.samples import Answer, NewSample
from cloud_service.training.job_folder import begin
from cloud_service.training.job_table import MAX_WAITING, JobTable
from cloud_service.training.job_work import MAX_STARTS
from cloud_service.training.jobs import Jobs
from cloud_service.training.settings import JobsSettings
from cloud_service.training.triggers import TriggerRules
from shared.messages import DeviceState, Reason, TaskState
from tests.sim.bundles import make, sample
from tests.sim.device import header
from tests.sim.pipeline import COMMAND

EVIDENCE = Evidence(
    bundle_version="v1", alarms={Alarm.ADWIN: 3}, stream=500, number=900, before=0.1, now=0.4, audits=0, differing=0,
    agreement_high=1.0, goal=0.9, audit_fraction=0.1,
)  # fmt: skip


@pytest.fixture
def build(job_parts, digits_task, tmp_path):
    def jobs(
        mode="pass",
        *,
        parts=job_parts,
        rollout=RolloutMode.MANUAL,
        min_samples=0,
        tasks=("digits",),
        settings=None,
        **trigger,
    ):
        training = digits_task.training.model_copy(update={"min_samples": min_samples, "seed": 3})
        rules = TriggerRules(**trigger)
        served = digits_task.model_copy(update={"rollout": rollout, "training": training, "trigger": rules})
        return Jobs(
            parts,
            tasks={name: served.model_copy(update={"name": name}) for name in tasks},
            folder=tmp_path / "jobs",
            settings=settings,
            command=(*COMMAND, mode),
            instance="here",
        )

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


async def ended(jobs, job_id, *, timeout_s=8.0):
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
    assert (await build()._work._incumbent("digits")).bundle == registry.file(rows[1].sha256)


async def test_variant_is_no_incumbent_before_a_runs_own_candidate(build, registry, tmp_path):
    make(tmp_path / "b", version="digits-1")
    own = await registry.add(tmp_path / "b", origin="upload")
    lineage = {"variant": {"of": "digits-2", "name": "fp16"}}
    make(tmp_path / "b", version="digits-2-fp16", shift=1, lineage=lineage)
    await registry.add(tmp_path / "b", origin="job:2")
    assert (await build()._work._incumbent("digits")).bundle == registry.file(own.sha256)


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


async def test_job_that_is_cut_off_in_the_same_stage_again_and_again_is_given_up(build, tmp_path):
    jobs = build()
    job = await jobs.submit("digits")
    folder = tmp_path / "jobs" / job.id
    folder.mkdir(parents=True)
    for _ in range(MAX_STARTS):
        begin(folder)
    async with running(jobs):
        row = await ended(jobs, job.id)
    assert row.state == "failed"
    assert "3 times" in row.message
    assert not (folder / "starts").exists()


async def test_service_that_is_stopped_again_and_again_does_not_give_its_job_up(build, tmp_path):
    jobs = build("hang")
    job = await jobs.submit("digits")
    for times in range(1, MAX_STARTS + 2):
        async with running(jobs):
            await started(tmp_path / "jobs" / job.id, times)
    row = await jobs.get(job.id)
    assert (row.state, row.attempts) == ("running", MAX_STARTS + 1)


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
    await jobs.trigger()
    assert await jobs.all() == []
    await store(samples, 1)
    await jobs.trigger()
    await jobs.trigger()
    [job] = await jobs.all()
    assert job.trigger == "samples"
    async with running(jobs):
        await ended(jobs, job.id)
        await jobs.trigger()
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
    assert row.version == "digits-1-2"


async def test_job_cancelled_in_the_moment_it_is_chosen_never_starts(build, database, tmp_path):
    jobs = build()
    await jobs.submit("digits")
    chosen = await JobTable(database).next({"digits"})
    await jobs.cancel(chosen.id)
    await jobs._work.run(chosen)
    assert not (tmp_path / "jobs" / chosen.id / "starts").exists()
    assert (await jobs.get(chosen.id)).state == "cancelled"


async def test_devices_that_run_what_the_registry_has_not_are_named_as_uncompared(build, fleet, caplog):
    state = TaskState(bundle_version="factory", bundle_sha256="a" * 64)
    fleet.saw("cam-1", DeviceState(online=True, tasks={"digits": state}))
    await fleet.flush()
    assert await build()._work._incumbent("digits") is None
    assert "held against nothing" in caplog.text


async def test_version_that_was_pushed_by_hand_meanwhile_is_taken_by_the_next_free_one(build, registry, tmp_path):
    jobs = build("hang-once")
    job = await jobs.submit("digits")
    folder = tmp_path / "jobs" / job.id
    async with running(jobs):
        await started(folder)
    for version in ("digits-1", "digits-1-2"):
        make(tmp_path / "b", version=version, shift=3)
        await registry.add(tmp_path / "b", origin="upload")
    (folder / "bundle.json").write_text("{}")
    async with running(build("hang-once")):
        row = await ended(jobs, job.id)
    assert (row.state, row.version) == ("succeeded", "digits-1-3")
    assert row.report["version"] == "digits-1-3"
    # Only what names the version is made anew.
    assert not (folder / "bundle.json").exists()
    assert (await registry.get("digits", "digits-1-3")).origin == f"job:{job.id}"


async def test_jobs_of_different_tasks_run_side_by_side_and_of_one_task_never(build, tmp_path):
    jobs = build("hang", tasks=("digits", "sounds"), settings=JobsSettings(side_by_side=3))
    async with running(jobs):
        first, second = await jobs.submit("digits"), await jobs.submit("digits")
        other = await jobs.submit("sounds")
        await started(tmp_path / "jobs" / first.id)
        await started(tmp_path / "jobs" / other.id)
        assert (await jobs.get(second.id)).state == "queued"
        assert (await jobs.get(first.id)).instance == "here"
        await jobs.cancel(first.id)
        await started(tmp_path / "jobs" / second.id)
        assert (await jobs.get(other.id)).state == "running"


async def test_task_with_a_long_queue_does_not_hold_up_the_others(build, database):
    jobs, table = build(tasks=("digits", "sounds")), JobTable(database)
    many = [await jobs.submit("digits") for _ in range(3)]
    late = await jobs.submit("sounds")
    order = []
    while row := await table.next(["digits", "sounds"]):
        assert await table.claim(row, instance="a")
        await table.end(row.id, JobState.SUCCEEDED, "")
        order.append(row.id)
    assert order == [many[0].id, late.id, many[1].id, many[2].id]


async def test_job_is_claimed_by_one_replica_only(build, database):
    jobs, table = build(), JobTable(database)
    await jobs.submit("digits")
    found = await table.next(["digits"])
    assert await table.claim(found, instance="a")
    assert not await table.claim(found, instance="b")
    assert (await jobs.get(found.id)).instance == "a"
    assert await table.claim(await jobs.get(found.id), instance="b")  # it was cut off, and taken over


async def test_old_folders_go_and_the_newest_and_what_was_shipped_stay(build, fleet, tmp_path):
    state = TaskState(bundle_version="v1", bundle_sha256="a" * 64)
    fleet.saw("cam-1", DeviceState(online=True, tasks={"digits": state}))
    await fleet.flush()
    folders = tmp_path / "jobs"
    keep_one = JobsSettings(keep_folders=1)
    jobs = build(rollout=RolloutMode.AUTO, settings=keep_one)
    async with running(jobs):
        shipped = await ended(jobs, (await jobs.submit("digits")).id)
    (folders / "not-a-job").mkdir()
    jobs = build("reject", settings=keep_one)
    async with running(jobs):
        ids = [(await jobs.submit("digits")).id for _ in range(3)]
        for name in ids:
            await ended(jobs, name)
        async with asyncio.timeout(8):
            while len(list(folders.iterdir())) > 3:
                await asyncio.sleep(0.01)
    assert {folder.name for folder in folders.iterdir()} == {shipped.id, ids[-1], "not-a-job"}
    with pytest.raises(NotFound, match="its folder was removed"):
        await jobs.log_file(ids[0])


async def test_log_tells_the_stages_and_what_the_process_said(build, database):
    jobs = build("crash")
    waiting = await jobs.submit("digits")
    assert not (await jobs.log_file(waiting.id))[1].exists()
    async with running(jobs):
        row = await ended(jobs, waiting.id)
    assert "something broke" in (await jobs.log_file(row.id))[1].read_text()
    await JobTable(database).change(row.id, {"instance": "elsewhere", "id": "moved"})
    with pytest.raises(NotFound, match="it lies with replica elsewhere"):
        await jobs.log_file("moved")


async def test_time_that_was_trained_is_counted_over_all_attempts(build, tmp_path):
    jobs = build("hang-once")
    job = await jobs.submit("digits")
    async with running(jobs):
        await started(tmp_path / "jobs" / job.id)
        async with asyncio.timeout(8):
            while not (first := (await jobs.get(job.id)).seconds):
                await asyncio.sleep(0.01)
    async with running(build("hang-once")):
        assert (await ended(jobs, job.id)).seconds > first


async def test_cool_down_holds_the_next_job_and_says_so_once(build, samples, caplog):
    jobs = build(new_samples=2, cooldown_s=3_600)
    await store(samples, 2)
    caplog.set_level("INFO")
    async with running(jobs):
        async with asyncio.timeout(8):
            while not (found := await jobs.all()):
                await asyncio.sleep(0.01)
        row = await ended(jobs, found[0].id)
    assert (row.trigger, row.reason) == ("samples", "2 new samples, 2 start a job")
    await store(samples, 3)
    await jobs.trigger()
    await jobs.trigger()
    [judged] = await jobs.judge("digits")
    assert (judged.decision.standing, judged.seen.new_samples) == ("held", 3)
    assert "the cool-down lasts until" in judged.decision.reason
    assert len(await jobs.all()) == 1
    assert caplog.text.count("no job yet") == 1
    with pytest.raises(NotFound, match="the service serves: digits"):
        await jobs.judge("sounds")


async def test_failed_job_has_not_used_its_samples_up_but_is_not_tried_again_at_once(build, samples):
    jobs = build("fail", new_samples=2, cooldown_s=0)
    await store(samples, 2)
    await jobs.trigger()
    async with running(jobs):
        row = await ended(jobs, (await jobs.all())[0].id)
    assert row.state == "failed"
    [judged] = await jobs.judge()
    assert (judged.decision.standing, judged.seen.new_samples, judged.seen.setbacks) == ("held", 2, 1)


async def test_drift_incident_starts_a_job_once_there_is_something_to_learn(build, samples, estimator):
    jobs = build(on_drift=True, min_new_samples=2)
    await estimator.incidents.begin("digits", "cam-1", EVIDENCE)
    await jobs.trigger()
    assert await jobs.all() == []
    await store(samples, 2)
    await jobs.trigger()
    await jobs.trigger()
    [job] = await jobs.all()
    assert job.trigger == "drift"
    assert "cam-1" in job.reason


async def test_estimated_agreement_under_the_floor_starts_a_job(build, samples, estimator):
    jobs = build(agreement_floor=0.9, min_new_samples=2)
    # Every sample is an audit, and the device was wrong in all of them.
    made = [
        NewSample("cam-1", header(prediction=1, reason=Reason.AUDIT, inclusion_probability=0.5), sample(n % 10))
        for n in range(60)
    ]
    await samples.add(made)
    says = Answer(np.eye(10, dtype=np.float32)[0], "t1")
    await samples.answer([(one.header.sample_id, says) for one in made])
    [judged] = await jobs.judge()
    assert "not estimated yet" in judged.decision.reason
    await estimator.refresh()
    await jobs.trigger()
    [job] = await jobs.all()
    assert job.trigger == "agreement"
    assert "the floor is 90.0%" in job.reason


async def test_variants_of_a_run_are_registered_each_as_its_gate_said(build, registry):
    jobs = build("variants")
    async with running(jobs):
        row = await ended(jobs, (await jobs.submit("digits")).id)
    assert (row.state, row.version) == ("succeeded", "digits-1")
    found = {bundle.version: bundle.shippable for bundle in await registry.all("digits")}
    assert found == {"digits-1": True, "digits-1-fp16": False}


@pytest.mark.parametrize("taken", ["digits-1", "digits-1-fp16"])
async def test_taken_name_renames_the_whole_family_and_leaves_nothing_behind(build, registry, tmp_path, taken):
    jobs = build("variants")
    job = await jobs.submit("digits")
    await jobs._work._prepare(job, tmp_path / "jobs" / job.id)
    make(tmp_path / "b", version=taken, shift=5)
    await registry.add(tmp_path / "b", origin="upload")
    async with running(jobs):
        row = await ended(jobs, job.id)
    assert (row.state, row.version) == ("succeeded", "digits-1-2")
    mine = {bundle.version for bundle in await registry.all("digits") if bundle.origin == f"job:{row.id}"}
    assert mine == {"digits-1-2", "digits-1-2-fp16"}


async def test_weights_of_the_incumbent_are_laid_beside_it_where_its_job_left_them(build, tmp_path):
    jobs, folders = build(), tmp_path / "jobs"
    async with running(jobs):
        first = await ended(jobs, (await jobs.submit("digits")).id)
        (folders / first.id / "student.pt").write_bytes(b"weights")
        second = await ended(jobs, (await jobs.submit("digits")).id)
    assert (folders / second.id / "incumbent.pt").read_bytes() == b"weights"
    assert not (folders / first.id / "incumbent.pt").exists()


async def test_folder_of_a_job_whose_variant_was_sent_stays(build, registry, rollouts, tmp_path):
    jobs = build("good-variants")
    async with running(jobs):
        first = await ended(jobs, (await jobs.submit("digits")).id)
        [variant] = [bundle for bundle in await registry.all("digits") if bundle.version == "digits-1-fp16"]
        await rollouts.deploy(variant, ["cam-1"])
    async with running(build("reject", settings=JobsSettings(keep_folders=0))):
        second = await ended(jobs, (await jobs.submit("digits")).id)
        async with asyncio.timeout(8):
            while (tmp_path / "jobs" / second.id).exists():
                await asyncio.sleep(0.01)
    assert (tmp_path / "jobs" / first.id).is_dir()


class AwayOnce:
    """A registry whose database is away when the first bundle comes."""

    def __init__(self, registry):
        self._registry, self.imports = registry, 0

    async def add(self, *arguments, **named):
        self.imports += 1
        if self.imports == 1:
            raise StoreError("the database failed: gone")
        return await self._registry.add(*arguments, **named)

    def __getattr__(self, name):
        return getattr(self._registry, name)


async def test_what_was_trained_is_taken_again_when_the_database_was_away(build, job_parts, caplog):
    registry = AwayOnce(job_parts.registry)
    jobs = build(parts=replace(job_parts, registry=registry))
    job = await jobs.submit("digits")
    async with running(jobs):
        row = await ended(jobs, job.id)
    assert (row.state, row.version, registry.imports) == ("succeeded", "digits-1", 2)
    assert caplog.text.count("cannot be stored, it is tried again") == 1


async def test_samples_of_a_cancelled_job_are_new_samples_still(build, database):
    jobs, table = build(), JobTable(database)
    row = await table.add("digits", seed=0, trigger="samples", last_sample=40)
    await jobs.cancel(row.id)
    assert (await table.history("digits")).last_sample == 0


async def test_job_that_dies_in_silence_is_not_given_the_words_of_an_earlier_start(build, tmp_path):
    jobs = build("crash")
    job = await jobs.submit("digits")
    folder = tmp_path / "jobs" / job.id
    await jobs._work._prepare(job, folder)
    (folder / "error.json").write_text('{"message": "an older story"}')
    async with running(jobs):
        row = await ended(jobs, job.id)
    assert row.state == "failed"
    assert "an older story" not in row.message
