import asyncio

import pytest

from cloud_service.downlink import Downlink
from cloud_service.errors import Conflict, RequestInvalid
from cloud_service.rollouts.driver import DeploymentFilter, Rollouts
from shared import messages
from shared.ids import new_id
from shared.messages import Desired, DeviceState, Report, TaskState, UpdateFailure, UpdateOutcome
from shared.mqtt import Identity
from tests.sim.bundles import make


@pytest.fixture
async def bundle(registry, tmp_path):
    async def imported(version, task="digits"):
        make(tmp_path / f"{task}-{version}", version=version, task=task)
        return await registry.add(tmp_path / f"{task}-{version}", origin="upload")

    return imported


@pytest.fixture
async def connection(broker, downlink):
    async with broker.connect(Identity("cloud")) as open_connection:
        downlink.attach(open_connection)
        yield open_connection


def wanted(broker, device) -> Desired:
    return messages.decode(Desired, broker.retained[f"edgeloop/v1/demo/{device}/desired"])


def report(bundle, *, failure=UpdateFailure.NONE, message="") -> Report:
    return Report(
        report_id=new_id(),
        task=bundle.task,
        version=bundle.version,
        bundle_sha256=bundle.sha256,
        from_version="v0",
        outcome=UpdateOutcome.ACTIVATED if failure is UpdateFailure.NONE else UpdateOutcome.FAILED,
        failure=failure,
        message=message,
        seconds=1.5,
    )


async def states(rollouts) -> list[tuple[str, str, str]]:
    rows = await rollouts.deployments(DeploymentFilter())
    return [(row.device, row.version, row.state) for row in reversed(rows)]


async def test_deploying_publishes_what_to_fetch_retained(rollouts, bundle, broker, connection):
    v2 = await bundle("v2")
    await rollouts.deploy(v2, ["a", "b", "a"])
    for device in ("a", "b"):
        target = wanted(broker, device).tasks["digits"].bundle
        assert target.url == f"http://cloud:8080/bundles/{v2.sha256}"
        assert (target.version, target.sha256, target.size_bytes) == ("v2", v2.sha256, v2.size_bytes)
    assert await states(rollouts) == [("a", "v2", "pending"), ("b", "v2", "pending")]


async def test_revision_rises_and_other_tasks_keep_their_targets(rollouts, bundle, broker, connection):
    await rollouts.deploy(await bundle("v1"), ["a"])
    await rollouts.deploy(await bundle("s1", task="sounds"), ["a"])
    await rollouts.deploy(await bundle("v2"), ["a"])
    desired = wanted(broker, "a")
    assert desired.revision == 3
    assert {task: target.bundle.version for task, target in desired.tasks.items()} == {"digits": "v2", "sounds": "s1"}
    assert ("a", "v1", "superseded") in await states(rollouts)


async def test_without_a_broker_deployments_wait_and_are_published_on_connecting(rollouts, bundle, broker, downlink):
    await rollouts.deploy(await bundle("v2"), ["a"])
    assert broker.retained == {}
    async with broker.connect(Identity("cloud")) as connection:
        downlink.attach(connection)
        await rollouts.publish()
    assert wanted(broker, "a").tasks["digits"].bundle.version == "v2"


async def test_large_fleets_are_published_completely(rollouts, bundle, broker, connection):
    names = [f"cam-{n}" for n in range(130)]
    await rollouts.deploy(await bundle("v2"), names)
    assert len(broker.retained) == 130


class SlowConnection:
    """Holds the first message until it is released; the others pass."""

    def __init__(self, connection):
        self.connection = connection
        self.held, self.release = asyncio.Event(), asyncio.Event()

    async def publish(self, topic, payload, *, qos, retain=False):
        if not self.held.is_set():
            self.held.set()
            await self.release.wait()
        await self.connection.publish(topic, payload, qos=qos, retain=retain)


async def test_what_is_deployed_last_is_published_last(rollouts, bundle, broker, connection, downlink):
    v1, v2 = await bundle("v1"), await bundle("v2")
    await rollouts.deploy(v1, ["a"])
    slow = SlowConnection(connection)
    downlink.attach(slow)
    republishing = asyncio.create_task(rollouts.publish())
    await slow.held.wait()
    deploying = asyncio.create_task(rollouts.deploy(v2, ["a"]))
    async with asyncio.timeout(10):
        while len(await rollouts.deployments(DeploymentFilter())) < 2:
            await asyncio.sleep(0)
    await asyncio.sleep(0.05)  # time for a message that does not wait its turn to overtake
    slow.release.set()
    await asyncio.gather(republishing, deploying)
    assert wanted(broker, "a").revision == 2


async def test_replica_that_publishes_late_does_not_bring_back_what_another_has_replaced(
    rollouts, bundle, broker, database, connection, downlink
):
    await rollouts.deploy(await bundle("v1"), ["a"])
    theirs = Downlink("demo")
    other = Rollouts(database, theirs, public_url="http://cloud:8080/")
    theirs.attach(slow := SlowConnection(connection))
    late = asyncio.create_task(other.publish())
    await slow.held.wait()  # it has read v1, and has not said so yet
    await rollouts.deploy(await bundle("v2"), ["a"])
    slow.release.set()
    await late
    assert wanted(broker, "a").tasks["digits"].bundle.version == "v2"


async def test_reports_settle_deployments_and_repeat_without_effect(rollouts, bundle, connection):
    v2 = await bundle("v2")
    await rollouts.deploy(v2, ["a", "b"])
    good = report(v2)
    await rollouts.settle("a", good)
    await rollouts.settle("b", report(v2, failure=UpdateFailure.SELF_TEST, message="3 of 16 differ"))
    [b, a] = await rollouts.deployments(DeploymentFilter(task="digits", version="v2"))
    assert (a.state, a.seconds, a.failure) == ("activated", 1.5, "none")
    assert (b.state, b.failure, b.message) == ("failed", "self_test", "3 of 16 differ")
    await rollouts.settle("a", good)
    [again] = await rollouts.deployments(DeploymentFilter(device="a"))
    assert again.finished_at == a.finished_at


async def test_report_on_something_never_deployed_changes_nothing(rollouts, bundle):
    assert not await rollouts.settle("a", report(await bundle("v2")))
    assert await states(rollouts) == []


async def test_deploying_what_a_device_runs_is_done_at_once(rollouts, bundle, fleet, connection):
    v2 = await bundle("v2")
    running = TaskState(bundle_version="v2", bundle_sha256=v2.sha256)
    fleet.saw("a", DeviceState(online=True, tasks={"digits": running}))
    await fleet.flush()
    await rollouts.deploy(v2, ["a", "b"])
    assert await states(rollouts) == [("a", "v2", "activated"), ("b", "v2", "pending")]


async def test_what_did_not_pass_its_gate_is_not_shipped(rollouts, registry, tmp_path):
    make(tmp_path / "x", version="bad")
    rejected = await registry.add(tmp_path / "x", origin="job:1", shippable=False)
    with pytest.raises(Conflict, match="gate"):
        await rollouts.deploy(rejected, ["a"])


@pytest.mark.parametrize("devices", [[], ["no/slashes"]])
async def test_devices_must_be_named_properly(rollouts, bundle, devices):
    with pytest.raises(RequestInvalid):
        await rollouts.deploy(await bundle("v2"), devices)


def running(bundle, *, online=True) -> DeviceState:
    task = TaskState(bundle_version=bundle.version, bundle_sha256=bundle.sha256)
    return DeviceState(online=online, tasks={bundle.task: task})


async def test_state_that_shows_the_bundle_settles_what_waits_for_that_device_alone(rollouts, bundle, connection):
    v1, v2 = await bundle("v1"), await bundle("v2")
    await rollouts.deploy(v2, ["a", "b"])
    await rollouts.observe("a", running(v1))
    await rollouts.observe("a", DeviceState(online=False))
    assert await states(rollouts) == [("a", "v2", "pending"), ("b", "v2", "pending")]
    await rollouts.observe("a", running(v2, online=False))
    assert await states(rollouts) == [("a", "v2", "activated"), ("b", "v2", "pending")]


async def test_report_that_comes_after_the_state_adds_what_it_knows(rollouts, bundle, connection):
    v2 = await bundle("v2")
    await rollouts.deploy(v2, ["a"])
    await rollouts.observe("a", running(v2))
    [seen] = await rollouts.deployments(DeploymentFilter())
    await rollouts.settle("a", report(v2))
    [told] = await rollouts.deployments(DeploymentFilter())
    assert (seen.seconds, told.seconds) == (None, 1.5)
    assert (told.state, told.finished_at) == ("activated", seen.finished_at)


async def test_report_of_a_failure_wins_over_an_earlier_state(rollouts, bundle, connection):
    v2 = await bundle("v2")
    await rollouts.deploy(v2, ["a"])
    await rollouts.observe("a", running(v2))
    await rollouts.settle("a", report(v2, failure=UpdateFailure.INTERNAL, message="it did not load again"))
    assert await states(rollouts) == [("a", "v2", "failed")]
