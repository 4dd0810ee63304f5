"""The way of a sample through the cloud, with a broker and a blob store in memory and a real database."""

import asyncio
import threading
from contextlib import asynccontextmanager
from random import Random

import numpy as np
import pytest

from cloud_service.ingest import Ingest, Parts
from cloud_service.rollouts.driver import DeploymentFilter
from cloud_service.settings import IngestSettings
from cloud_service.storage.samples import Answer, SampleFilter
from cloud_service.teacher.worker import Model, Teacher
from shared import messages
from shared.messages import UpdateFailure
from shared.mqtt import BrokerSettings, keep_connected
from shared.topics import Channel
from tests.sim.bundles import make, sample
from tests.sim.clock import SimulatedClock
from tests.sim.device import BareDevice, header


class TeacherModel:
    """Reads the label off the sample; fails on label 9; can be held."""

    def __init__(self):
        self.calls = 0
        self.free = threading.Event()
        self.free.set()

    def __call__(self, batch):
        self.calls += 1
        assert self.free.wait(20)
        logits = batch.reshape(len(batch), -1)[:, :10].astype(np.float32)
        if logits.argmax(axis=1).max() == 9:
            raise ValueError("nine is too hard")
        return logits


@pytest.fixture
def model():
    return TeacherModel()


@pytest.fixture
def clock():
    return SimulatedClock(runs=False)


@pytest.fixture
def cloud(broker, downlink, fleet, rollouts, samples, digits_task, model, clock):
    """Runs an ingest on the simulated broker; settings may be replaced."""

    @asynccontextmanager
    async def run(**settings):
        teacher = Teacher(Model("t1", model), task="digits")
        parts = Parts({"digits": digits_task.terms}, {"digits": teacher}, samples, fleet, rollouts, downlink)
        ingest = Ingest(parts, IngestSettings(**settings), site="demo", clock=clock, sleep=clock.sleep)
        connected = keep_connected(
            broker.connect, ingest.identity, ingest.session, settings=BrokerSettings(), rng=Random(0), sleep=no_wait
        )
        tasks = [asyncio.create_task(part) for part in (teacher.run(), ingest.run(), connected)]
        await broker.wait_until(lambda: downlink.connected)
        try:
            yield ingest
        finally:
            for each in tasks:
                each.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(result, asyncio.CancelledError) for result in results), results

    return run


async def no_wait(_seconds: float) -> None:
    await asyncio.sleep(0)


def device(broker, name="cam-1") -> BareDevice:
    return BareDevice(broker.connect, "demo", name)


async def until(condition, timeout_s=10.0):
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0)


async def tick(clock, seconds=0.3):
    """Let the ingest's receipts loop run once."""
    await until(lambda: clock.sleeping)
    clock.advance(seconds)
    await asyncio.sleep(0)
    await until(lambda: clock.sleeping)


async def test_samples_of_many_devices_are_stored_and_each_answered_to_its_own(cloud, broker, samples):
    async with cloud() as ingest, device(broker, "a") as a, device(broker, "b") as b:
        sent = [(dev, await dev.send(sample(n % 9), prediction=n % 10)) for n in range(20) for dev in (a, b)]
        for n, (dev, one) in enumerate(sent):
            verdict = await dev.verdict(one.sample_id)
            assert verdict.prediction == n // 2 % 9
            assert verdict.teacher == "t1"
        assert len(a.verdicts) == len(b.verdicts) == 20
        assert (ingest.counts.samples, ingest.counts.stored, ingest.counts.verdicts) == (40, 40, 40)
    assert len(await samples.page(SampleFilter(device="a"), before=None, limit=100)) == 20


async def test_verdict_comes_after_the_sample_is_stored_and_answered_in_the_store(cloud, broker, samples):
    async with cloud(), device(broker) as cam:
        sent = await cam.send(sample(4))
        await cam.verdict(sent.sample_id)
        assert (await samples.one(sent.sample_id)).label == 4


async def test_redelivery_is_answered_from_the_store(cloud, broker, model):
    async with cloud() as ingest, device(broker) as cam:
        broker.duplicate_deliveries(1, matching="edgeloop/v1/demo/cam-1/sample")
        frame = messages.encode_sample(sent := header(), sample(4))
        await cam.publish(Channel.SAMPLE, frame)
        await cam.verdict(sent.sample_id)
        calls = model.calls
        await cam.publish(Channel.SAMPLE, frame)
        await cam.verdict(sent.sample_id, count=2)
        assert model.calls == calls
        assert ingest.counts.redelivered >= 1
        assert ingest.counts.stored == 1


async def test_slow_verdict_is_receipted_first_and_comes_later(cloud, broker, model, clock, samples):
    model.free.clear()
    async with cloud(receipt_after_s=1.0), device(broker) as cam:
        sent = await cam.send(sample(4))
        await until(lambda: model.calls)
        await tick(clock)
        assert cam.accepted == []
        await tick(clock, 1.0)
        await cam.wait(lambda: cam.accepted == [sent.sample_id])
        await tick(clock, 1.0)
        model.free.set()
        assert (await cam.verdict(sent.sample_id)).prediction == 4
        assert cam.accepted == [sent.sample_id]


async def test_sample_not_for_training_is_never_receipted_nor_stored(cloud, broker, model, clock, samples, blobs):
    model.free.clear()
    async with cloud(receipt_after_s=1.0) as ingest, device(broker) as cam:
        sent = await cam.send(sample(4), training_use=False)
        await until(lambda: model.calls)
        await tick(clock, 2.0)
        await tick(clock)
        model.free.set()
        await cam.verdict(sent.sample_id)
        assert cam.accepted == []
        assert ingest.counts.unstored == 1
    assert await samples.known([sent.sample_id]) == {}
    assert blobs.blobs == {}


async def test_teachers_failure_is_receipted_when_stored_and_refused_when_not(cloud, broker, clock, samples, caplog):
    async with cloud() as ingest, device(broker) as cam:
        stored, private = await cam.send(sample(9)), await cam.send(sample(9), training_use=False)
        good = await cam.send(sample(1))
        await cam.verdict(good.sample_id)
        await until(lambda: ingest.counts.teacher_failures == 2)
        await tick(clock)
        await cam.wait(lambda: stored.sample_id in cam.accepted and private.sample_id in cam.refused)
        assert "too hard" in cam.refused[private.sample_id]
        frame = messages.encode_sample(stored, sample(9))
        await cam.publish(Channel.SAMPLE, frame)
        await until(lambda: ingest.counts.redelivered == 1)
        await tick(clock)
        await cam.wait(lambda: cam.accepted.count(stored.sample_id) == 2)
    assert "too hard" in (await samples.one(stored.sample_id)).failure
    assert len([r for r in caplog.records if "too hard" in r.message]) == 1


async def test_full_store_keeps_silent_and_recovers(cloud, broker, blobs, clock, caplog):
    caplog.set_level("INFO")
    async with cloud() as ingest, device(broker) as cam:
        blobs.full = True
        lost = [await cam.send(sample(1)) for _ in range(3)]
        private = await cam.send(sample(2), training_use=False)
        assert (await cam.verdict(private.sample_id)).prediction == 2
        await until(lambda: ingest.counts.samples == 4)
        await tick(clock)
        assert not cam.accepted
        assert set(cam.verdicts) == {private.sample_id}
        blobs.full = False
        again = await cam.send(sample(3))
        await cam.verdict(again.sample_id)
        for each in lost:
            await cam.publish(Channel.SAMPLE, messages.encode_sample(each, sample(1)))
            await cam.verdict(each.sample_id)
    said = [r.message for r in caplog.records if r.name == "cloud_service.answering"]
    assert len([line for line in said if "no space left" in line]) == 1
    assert said.count("samples are stored again") == 1


async def test_unreadable_frames_are_counted_by_kind_and_said_once(cloud, broker, caplog):
    async with cloud(max_frame_bytes=5_000) as ingest, device(broker) as cam:
        for frame in (b"", b"\x00", b"\xff" * 9, bytes(6_000)):
            await cam.publish(Channel.SAMPLE, frame)
        for channel in (Channel.STATE, Channel.TELEMETRY, Channel.REPORT):
            await cam.publish(channel, b"\x01")
        await cam.publish(Channel.STATE, b"")
        sent = await cam.send(sample(1))
        await cam.verdict(sent.sample_id)
        await until(lambda: ingest.faults.get("MalformedFrame") == 6)
        assert ingest.faults == {"MalformedFrame": 6, "OversizeFrame": 1}
    assert len([r for r in caplog.records if "cannot be read" in r.message]) == 2
    assert all("device cam-1" in r.message for r in caplog.records if "cannot be read" in r.message)


async def test_foreign_topics_are_counted(cloud, broker):
    async with cloud() as ingest, device(broker) as cam:
        async with broker.connect(ingest.identity.__class__("odd")) as odd:
            await odd.publish("edgeloop/v1/demo/bad name!/state", b"", qos=1)
        sent = await cam.send(sample(1))
        await cam.verdict(sent.sample_id)
        assert ingest.faults == {"topic": 1}


async def test_refusal_names_the_sample(cloud, broker, clock):
    async with cloud() as ingest, device(broker) as cam:
        sent = await cam.send(np.zeros((2, 2), np.uint8))
        await until(lambda: ingest.counts.refused == 1)
        await tick(clock)
        await cam.wait(lambda: sent.sample_id in cam.refused)


async def test_lost_connection_loses_no_sample_that_is_sent_again(cloud, broker):
    async with cloud() as ingest, device(broker) as cam:
        broker.lose_publishes(1, delivered=False, matching="edgeloop/v1/demo/cam-1/verdict")
        sent = await cam.send(sample(5))
        await until(lambda: ingest.counts.stored == 1)
        await broker.wait_until(lambda: broker.connections_made == 3)
        await cam.publish(Channel.SAMPLE, messages.encode_sample(sent, sample(5)))
        assert (await cam.verdict(sent.sample_id)).prediction == 5


async def test_samples_without_a_verdict_are_answered_at_the_next_start(cloud, broker, samples, blobs, model):
    from cloud_service.storage.samples import NewSample

    waiting = [NewSample("cam-1", header(), sample(n)) for n in (1, 2, 3)]
    odd = NewSample("cam-1", header(task="sounds"), sample(1))
    lost = NewSample("cam-1", header(), sample(4))
    await samples.add([*waiting, odd, lost])
    del blobs.blobs[(await samples.one(lost.header.sample_id)).blob]
    async with device(broker) as cam, cloud(batch=2):
        for n, each in enumerate(waiting):
            assert (await cam.verdict(each.header.sample_id)).prediction == n + 1
    assert (await samples.one(odd.header.sample_id)).label is None
    assert (await samples.one(lost.header.sample_id)).label is None


async def test_first_verdict_is_repeated_even_when_the_teacher_has_changed(cloud, broker, samples):
    from cloud_service.storage.samples import NewSample

    one = NewSample("cam-1", header(), sample(1))
    await samples.add([one])
    old = np.full(10, 0.05, np.float32)
    old[7] = 0.55
    await samples.answer([(one.header.sample_id, Answer(old, "t0"))])
    async with cloud(), device(broker) as cam:
        await cam.publish(Channel.SAMPLE, messages.encode_sample(one.header, sample(1)))
        verdict = await cam.verdict(one.header.sample_id)
    assert (verdict.prediction, verdict.teacher) == (7, "t0")


async def test_states_and_telemetry_reach_the_registry_and_reports_are_receipted(cloud, broker, fleet, clock):
    async with cloud(), device(broker) as cam:
        await cam.state(version="v7")
        report = await cam.report(version="v8", sha256="b" * 64, failure=UpdateFailure.SELF_TEST)
        await tick(clock)
        await until(lambda: clock.sleeping)

        async def receipted():
            while report.report_id not in cam.accepted:
                await tick(clock)

        await asyncio.wait_for(receipted(), 10)
        await fleet.flush()
    assert (await fleet.device("cam-1")).tasks["digits"]["bundle_version"] == "v7"


async def test_state_settles_a_deployment_whose_report_never_comes(cloud, broker, rollouts, registry, tmp_path):
    make(tmp_path / "v8.bundle", version="v8")
    bundle = await registry.add(tmp_path / "v8.bundle", origin="upload")
    async with cloud(), device(broker) as cam:
        await rollouts.deploy(bundle, ["cam-1"])
        await cam.state(version="v8", sha256=bundle.sha256)

        async def settled():
            while [row.state for row in await rollouts.deployments(DeploymentFilter())] != ["activated"]:
                await asyncio.sleep(0)

        await asyncio.wait_for(settled(), 10)


async def test_drain_waits_for_what_is_under_way_and_takes_nothing_new(cloud, broker, model, samples):
    model.free.clear()
    async with cloud() as ingest, device(broker) as cam:
        first = await cam.send(sample(1))
        await until(lambda: model.calls)
        draining = asyncio.create_task(ingest.drain())
        await asyncio.sleep(0)
        late = await cam.send(sample(2))
        assert not draining.done()
        model.free.set()
        await asyncio.wait_for(draining, 10)
        await cam.verdict(first.sample_id)
    assert await samples.known([late.sample_id]) == {}


async def test_many_samples_at_once_stay_within_the_limits(cloud, broker, model):
    async with cloud(max_under_way=4, max_queued=8, batch=3), device(broker) as cam:
        sent = [await cam.send(sample(n % 9)) for n in range(50)]
        for n, each in enumerate(sent):
            while each.sample_id not in cam.verdicts:  # the broker's inbox is small: some are sent again
                await cam.publish(Channel.SAMPLE, messages.encode_sample(each, sample(n % 9)))
                await cam.verdict(each.sample_id)
        assert all(cam.verdicts[h.sample_id][-1].prediction == n % 9 for n, h in enumerate(sent))
