"""The way of a sample through the cloud, with a broker and a blob store in memory and a real database."""

import asyncio

import numpy as np
import pytest

from cloud_service.rollouts.driver import DeploymentFilter
from cloud_service.storage.samples import Answer, NewSample, SampleFilter
from shared import messages
from shared.messages import DeviceState, UpdateFailure
from shared.topics import Channel
from tests.sim.bundles import make, sample
from tests.sim.device import BareDevice, header
from tests.sim.ingest import SAMPLES, tick, until


def device(broker, name="cam-1") -> BareDevice:
    return BareDevice(broker.connect, "demo", name)


async def test_samples_of_many_devices_are_stored_and_each_answered_to_its_own(cloud, broker, samples):
    async with cloud() as ingest, device(broker, "a") as a, device(broker, "b") as b:
        sent = [(dev, await dev.send(sample(n % 9), prediction=n % 10)) for n in range(20) for dev in (a, b)]
        for n, (dev, one) in enumerate(sent):
            verdict = await dev.verdict(one.sample_id)
            assert verdict.prediction == n // 2 % 9
            assert verdict.teacher == "t1"
        assert len(a.verdicts) == len(b.verdicts) == 20
        assert (ingest.counts.samples, ingest.counts.stored, ingest.counts.verdicts) == (40, 40, 40)
        timed = (ingest.latencies.stored, ingest.latencies.answered)
        assert [{task: sum(each.counts) for task, each in found.items()} for found in timed] == [{"digits": 40}] * 2
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


async def test_samples_that_nobody_waits_for_are_stored_together_as_soon_as_they_fill_a_batch(cloud, broker, blobs):
    async with cloud(company_s=1.0, batch=3) as ingest, device(broker) as cam:
        sent = [await cam.send(sample(n)) for n in range(2)]
        await until(lambda: ingest.waiting == 2)
        for _ in range(20):
            await asyncio.sleep(0)
        assert blobs.blobs == {}
        async with asyncio.timeout(0.9):
            sent.append(await cam.send(sample(2)))
            await until(lambda: blobs.blobs)
        for one in sent:
            await cam.verdict(one.sample_id)
        assert len(blobs.blobs) == 1


async def test_sample_that_somebody_waits_for_takes_those_along_that_wait_for_company(cloud, broker, blobs):
    async with cloud(company_s=1.0) as ingest, device(broker) as cam:
        waits = await cam.send(sample(1))
        await until(lambda: ingest.waiting == 1)
        async with asyncio.timeout(0.9):
            wanted = await cam.send(sample(2), deadline_ms=5_000)
            for one in (wanted, waits):
                await cam.verdict(one.sample_id)
        assert len(blobs.blobs) == 1


async def test_lone_sample_waits_for_company_no_longer_than_it_may(cloud, broker):
    async with cloud(company_s=0.01), device(broker) as cam:
        sent = await cam.send(sample(3))
        assert (await cam.verdict(sent.sample_id)).prediction == 3


async def test_repetition_to_another_replica_is_answered_from_the_store(cloud, broker, model, samples, blobs):
    async with cloud(), device(broker) as cam:
        frame = messages.encode_sample(sent := header(), sample(4))
        await cam.publish(Channel.SAMPLE, frame)
        await cam.verdict(sent.sample_id)
    calls, stored = model.calls, dict(blobs.blobs)
    async with cloud() as ingest, device(broker) as cam:
        for count in (1, 2):
            await cam.publish(Channel.SAMPLE, frame)
            await cam.verdict(sent.sample_id, count=count)
        assert (ingest.counts.redelivered, ingest.counts.stored) == (2, 0)
    assert model.calls == calls
    await samples.sweep()
    assert blobs.blobs == stored


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


async def test_full_store_keeps_silent_and_stores_by_itself_when_there_is_room(cloud, broker, blobs, clock, caplog):
    caplog.set_level("INFO")
    async with cloud() as ingest, device(broker) as cam:
        blobs.full = True
        kept = [await cam.send(sample(n)) for n in range(3)]
        private = await cam.send(sample(2), training_use=False)
        assert (await cam.verdict(private.sample_id)).prediction == 2
        await until(lambda: ingest.counts.samples == 4)
        for _ in range(8):
            await tick(clock)
        assert not cam.accepted
        assert set(cam.verdicts) == {private.sample_id}
        assert broker.held(SAMPLES) == 3
        blobs.full = False
        for _ in range(8):
            await tick(clock)
        for n, each in enumerate(kept):
            assert (await cam.verdict(each.sample_id)).prediction == n
        assert broker.held(SAMPLES) == 0
    said = [r.message for r in caplog.records if r.name == "cloud_service.storing"]
    assert len([line for line in said if "no space left" in line]) == 1
    assert said.count("samples are stored again") == 1


async def test_what_could_not_be_stored_is_left_to_the_broker_when_the_connection_is_lost(cloud, broker, blobs, clock):
    async with cloud() as ingest, device(broker) as cam:
        blobs.full = True
        kept = [await cam.send(sample(n)) for n in range(3)]
        await until(lambda: ingest.waiting == 3)
        for _ in range(3):  # no more of them in memory with every connection
            ingest.counts.samples = 0
            broker.drop_connections("edgeloop-demo-main")
            await until(lambda: ingest.counts.samples == 3)
            await tick(clock)
            assert ingest.waiting <= 3
        blobs.full = False
        for _ in range(8):
            await tick(clock)
        for each in kept:
            await cam.verdict(each.sample_id)
    assert ingest.counts.stored == 3


async def test_what_waits_is_not_kept_twice_when_the_connection_is_lost(cloud, broker, model):
    model.free.clear()
    async with cloud(max_under_way=2, batch=2) as ingest, device(broker) as cam:
        sent = [await cam.send(sample(n), deadline_ms=60_000 if n > 3 else None) for n in range(9)]
        await until(lambda: ingest.counts.samples == 9 and ingest.counts.stored == 4)
        for _ in range(3):
            ingest.counts.samples = 0
            broker.drop_connections("edgeloop-demo-main")
            await until(lambda: ingest.counts.samples == 5)
            assert ingest.waiting <= 5
        model.free.set()
        for n, each in enumerate(sent):
            assert (await cam.verdict(each.sample_id)).prediction == n
    assert ingest.counts.stored == 9


async def test_killed_replica_leaves_what_it_had_not_stored_to_its_next_life(cloud, broker, blobs):
    blobs.full = True
    async with device(broker) as cam:
        async with cloud() as first:
            sent = [await cam.send(sample(n)) for n in range(5)]
            await until(lambda: first.waiting == 5)
            broker.drop_connections("edgeloop-demo-main-samples")
        blobs.full = False
        async with cloud():
            for n, each in enumerate(sent):
                assert (await cam.verdict(each.sample_id)).prediction == n


async def test_broker_holds_what_is_more_than_a_replica_may_hold(cloud, broker, model, samples, clock, caplog):
    caplog.set_level("INFO")
    model.free.clear()
    async with cloud(max_held=8, max_under_way=4, batch=2) as ingest, device(broker) as cam:
        sent = [await cam.send(sample(n % 9)) for n in range(40)]
        await until(lambda: broker.held(SAMPLES) == 8 and ingest.waiting == 8)
        for _ in range(50):
            await asyncio.sleep(0)
        # Under way, and what is held: nothing else is in memory.
        assert ingest.counts.samples == 4 + 8
        assert broker.queued(SAMPLES) == 40 - ingest.counts.samples
        for _ in range(3):
            await tick(clock)
        model.free.set()
        for n, each in enumerate(sent):
            assert (await cam.verdict(each.sample_id)).prediction == n % 9
        await tick(clock)
    said = [record.message for record in caplog.records if record.name == "cloud_service.ingest"]
    assert len([line for line in said if "faster than they are answered: 8 wait" in line]) == 1
    assert said[-1] == "samples are taken as they come again"
    assert broker.discarded == 0
    assert ingest.counts.redelivered == 0


async def test_sample_that_somebody_waits_for_overtakes_all_that_wait_in_memory(cloud, broker, model):
    model.free.clear()
    async with cloud(max_held=100, max_under_way=4, batch=2) as ingest, device(broker) as cam:
        others = [await cam.send(sample(n % 9)) for n in range(60)]
        await until(lambda: ingest.counts.samples == 60 and ingest.counts.stored == 4)
        wanted = await cam.send(sample(5), deadline_ms=60_000)
        await until(lambda: ingest.counts.stored == 5)
        model.free.set()
        assert (await cam.verdict(wanted.sample_id)).prediction == 5
        assert len(cam.verdicts) <= 4 + 8 + 1  # what the teacher had begun, and its next batch
        for each in others:
            await cam.verdict(each.sample_id)


async def test_replica_holds_no_more_bytes_than_it_may(cloud, broker, blobs):
    blobs.full = True
    two = 2 * len(messages.encode_sample(header(), sample(1)))
    async with cloud(max_held_bytes=two + 1) as ingest, device(broker) as cam:
        for n in range(10):
            await cam.send(sample(n % 9))
        await until(lambda: broker.held(SAMPLES) == 3)
        assert broker.queued(SAMPLES) == 7
        assert ingest.waiting <= 3


async def test_backlog_of_samples_does_not_hold_back_states_and_reports(cloud, broker, blobs, fleet, clock):
    blobs.full = True
    async with cloud(max_held=2) as ingest, device(broker) as cam:
        for n in range(10):
            await cam.send(sample(n % 9))
        await until(lambda: ingest.waiting == 2)
        await cam.state(version="v7")
        report = await cam.report(version="v8", sha256="b" * 64)

        async def receipted():
            while report.report_id not in cam.accepted:
                await tick(clock)

        await asyncio.wait_for(receipted(), 10)
        await fleet.flush()
    assert (await fleet.device("cam-1")).tasks["digits"]["bundle_version"] == "v7"


async def test_sample_that_nobody_waits_for_any_more_is_dropped_only_if_it_is_not_for_training(
    cloud, broker, model, clock
):
    model.free.clear()
    async with cloud() as ingest, device(broker) as cam:
        first = await cam.send(sample(1))
        await until(lambda: model.calls)
        private = await cam.send(sample(2), training_use=False, deadline_ms=500)
        training = await cam.send(sample(3), deadline_ms=500)
        await until(lambda: ingest.counts.stored == 2 and ingest.counts.unstored == 1)
        await tick(clock, 0.6)
        model.free.set()
        await cam.verdict(first.sample_id)
        assert (await cam.verdict(training.sample_id)).prediction == 3
        await until(lambda: ingest.counts.expired == 1)
        await tick(clock)
        await cam.wait(lambda: private.sample_id in cam.refused)
        assert private.sample_id not in cam.verdicts
        assert broker.held(SAMPLES) == 0


async def test_sample_of_a_device_that_was_deleted_is_receipted_and_not_stored(cloud, broker, samples, clock):
    async with cloud(), device(broker) as cam:
        old = await cam.send(sample(1))
        await cam.verdict(old.sample_id)
        await samples.purge_device("cam-1")
        await cam.publish(Channel.SAMPLE, messages.encode_sample(old, sample(1)))

        async def receipted():
            while old.sample_id not in cam.accepted:
                await tick(clock)

        await asyncio.wait_for(receipted(), 10)
    assert await samples.page(SampleFilter(), before=None, limit=10) == []


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


async def test_lost_connection_loses_no_sample_that_is_sent_again(cloud, broker, downlink):
    async with cloud() as ingest, device(broker) as cam:
        broker.lose_publishes(1, delivered=False, matching="edgeloop/v1/demo/cam-1/verdict")
        sent = await cam.send(sample(5))
        await until(lambda: ingest.counts.stored == 1)
        await until(lambda: broker.connections_made == 5 and downlink.connected)
        await cam.publish(Channel.SAMPLE, messages.encode_sample(sent, sample(5)))
        assert (await cam.verdict(sent.sample_id)).prediction == 5


async def test_orphans_are_answered_when_they_are_old_enough(cloud, broker, samples, blobs):
    waiting = [NewSample("cam-1", header(), sample(n)) for n in (1, 2, 3)]
    odd = NewSample("cam-1", header(task="sounds"), sample(1))
    lost = NewSample("cam-1", header(), sample(4))
    await samples.add([lost])
    blobs.blobs.clear()
    await samples.add([*waiting, odd])
    async with device(broker) as cam:
        async with cloud(orphan_after_s=3_600) as ingest:
            await ingest.orphans.adopt()
            assert ingest.counts.adopted == 0
        async with cloud(batch=2, orphan_after_s=0) as ingest:
            await ingest.orphans.adopt()
            for n, each in enumerate(waiting):
                assert (await cam.verdict(each.header.sample_id)).prediction == n + 1
            await ingest.orphans.adopt()
            assert ingest.counts.adopted == 3
    assert (await samples.one(odd.header.sample_id)).label is None
    assert (await samples.one(lost.header.sample_id)).label is None


async def test_verdict_names_as_many_classes_as_the_task_says(cloud, broker):
    async with cloud(top_k=3), device(broker) as cam:
        sent = await cam.send(sample(4))
        verdict = await cam.verdict(sent.sample_id)
    assert verdict.classes[0] == verdict.prediction == 4
    assert len(verdict.classes) == len(verdict.probabilities) == 3
    assert list(verdict.probabilities) == sorted(verdict.probabilities, reverse=True)


async def test_first_verdict_is_repeated_even_when_the_teacher_has_changed(cloud, broker, samples):
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


async def test_drain_leaves_what_is_not_stored_to_the_broker(cloud, broker, model, samples):
    model.free.clear()
    async with device(broker) as cam:
        async with cloud(max_under_way=2, batch=2) as ingest:
            sent = [await cam.send(sample(n)) for n in range(8)]
            await until(lambda: ingest.counts.stored == 2 and ingest.waiting == 6)
            draining = asyncio.create_task(ingest.drain())
            await asyncio.sleep(0)
            model.free.set()
            await asyncio.wait_for(draining, 10)
            assert (ingest.counts.stored, ingest.counts.verdicts) == (2, 2)
        assert broker.queued(SAMPLES) == 6
        async with cloud():
            for n, each in enumerate(sent):
                assert (await cam.verdict(each.sample_id)).prediction == n


async def test_more_states_than_may_be_held_and_a_deployment_do_not_stop_the_service(
    cloud, broker, rollouts, registry, fleet, tmp_path
):
    make(tmp_path / "v8.bundle", version="v8")
    await rollouts.deploy(await registry.add(tmp_path / "v8.bundle", origin="upload"), ["cam-1"])
    away = messages.encode(DeviceState(online=False))
    for n in range(5_500):
        broker.publish(f"edgeloop/v1/demo/cam-{n}/state", away, retain=True)
    async with cloud(), device(broker) as cam:
        await cam.wait(lambda: cam.desired is not None)
        await until(lambda: not broker.held("edgeloop-demo-main") and not broker.queued("edgeloop-demo-main"))
        sent = await cam.send(sample(4))
        assert (await cam.verdict(sent.sample_id)).prediction == 4
    assert broker.connections_made == 3


async def test_drain_takes_up_no_more_orphans_and_sends_what_is_noted_even_if_its_time_runs_out(
    cloud, broker, model, samples, clock
):
    await samples.add([NewSample("cam-1", header(), sample(n)) for n in range(8)])
    model.free.clear()
    async with cloud(max_under_way=2, batch=2, orphan_after_s=0) as ingest, device(broker) as cam:
        adopting = asyncio.create_task(ingest.orphans.adopt())
        await until(lambda: model.calls and clock.sleeping > 1)
        refused = await cam.send(np.zeros((2, 2), np.uint8))
        await until(lambda: ingest.counts.refused == 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ingest.drain(), 0.05)
        await cam.wait(lambda: refused.sample_id in cam.refused)
        model.free.set()
        clock.advance(0.1)
        await asyncio.wait_for(adopting, 10)
        await asyncio.wait_for(ingest.drain(), 10)
    assert ingest.counts.adopted == 2
    assert len(await samples.unanswered(after=0, limit=10)) == 6
