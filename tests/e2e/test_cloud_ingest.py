"""The cloud service as a process, with a real broker and a device that is nothing but an MQTT client."""

import json
import os
import re
import subprocess
import urllib.request

import numpy as np
import pytest

from shared import codec, messages
from shared.topics import Channel
from tests.e2e.cloud_process import Cloud, device
from tests.harness import eventually, wait_until
from tests.sim.bundles import sample
from tests.sim.device import header

pytestmark = pytest.mark.e2e


@pytest.fixture
def cloud(tmp_path, mosquitto, processes, free_port):
    return Cloud(tmp_path / "cloud", mosquitto, free_port(), processes)


async def test_sample_is_stored_and_answered_with_either_broker(tmp_path, broker, processes, free_port):
    cloud = Cloud(tmp_path / "cloud", broker, free_port(), processes)
    cloud.start()
    async with device(broker) as cam:
        await cam.state()
        sent = await cam.send(sample(3), seq=7, prediction=5, inclusion_probability=0.25)
        verdict = await cam.verdict(sent.sample_id)
        assert verdict.prediction == 3
        assert verdict.task == "digits"
        assert verdict.teacher.startswith("teacher-onnx-")
        assert sum(verdict.probabilities) == pytest.approx(1.0, abs=1e-5)

        stored = cloud.get(f"/api/v1/samples/{sent.sample_id}")
        assert (stored["device"], stored["seq"], stored["prediction"]) == ("cam-1", 7, 5)
        assert stored["inclusion_probability"] == 0.25
        assert stored["verdict"]["label"] == 3

        def online() -> bool:
            return [(d["name"], d["online"]) for d in cloud.get("/api/v1/devices")["items"]] == [("cam-1", True)]

        await eventually(online, timeout=5, what="the device is in the registry")


async def test_redelivered_sample_gets_the_same_verdict_and_no_second_row(cloud, mosquitto):
    cloud.start()
    async with device(mosquitto) as cam:
        sent = header()
        frame = messages.encode_sample(sent, sample(4))
        for count in (1, 2, 3):
            await cam.publish(Channel.SAMPLE, frame)
            await cam.verdict(sent.sample_id, count=count)
        answers = {(v.prediction, v.probabilities, v.teacher) for v in cam.verdicts[sent.sample_id]}
        assert len(answers) == 1
        assert [s["id"] for s in cloud.samples()] == [str(sent.sample_id)]


async def test_sample_not_for_training_is_answered_and_leaves_no_trace(cloud, mosquitto):
    cloud.start()
    async with device(mosquitto) as cam:
        secret = sample(6)
        secret.flat[20:30] = np.arange(201, 211)
        sent = await cam.send(secret, training_use=False)
        assert (await cam.verdict(sent.sample_id)).prediction == 6
    assert cloud.samples() == []
    assert cloud.get("/healthz")["counts"]["unstored"] == 1
    marks = (secret.tobytes()[20:30], sent.sample_id.bytes, sent.sample_id.hex.encode())
    for file in (cloud.folder / "data").rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not any(mark in content for mark in marks), file


async def test_bad_samples_are_refused_or_counted_and_the_service_goes_on(cloud, mosquitto):
    process = cloud.start("--set", "ingest.max_frame_bytes=100000")
    async with device(mosquitto) as cam:
        wrong_shape = await cam.send(np.zeros((4, 4), dtype=np.uint8))
        wrong_dtype = await cam.send(np.zeros((8, 8), dtype=np.float32))
        unknown_task = await cam.send(sample(1), task="sounds")
        wrong_label = await cam.send(sample(1), prediction=10)
        huge_seq = await cam.send(sample(1), seq=2**64 - 1)
        refused = [h.sample_id for h in (wrong_shape, wrong_dtype, unknown_task, wrong_label, huge_seq)]
        await cam.wait(lambda: set(cam.refused) >= set(refused))
        assert "[8, 8]" in cam.refused[wrong_shape.sample_id]
        assert "sounds" in cam.refused[unknown_task.sample_id]

        for _ in range(3):
            await cam.publish(Channel.SAMPLE, b"\xff\x00 not CBOR")
        future = header().model_dump() | {"schema_version": 2}
        await cam.publish(Channel.SAMPLE, codec.encode({"header": future, "tensor": sample(1)}))
        await cam.publish(Channel.SAMPLE, bytes(200_000))
        await cam.publish(Channel.REPORT, b"")
        await cam.publish(Channel.STATE, b"\x00")

        good = await cam.send(sample(2))
        assert (await cam.verdict(good.sample_id)).prediction == 2
        await eventually(
            lambda: cloud.get("/healthz")["faults"].get("MalformedFrame") == 5, timeout=5, what="bad frames are counted"
        )
    faults = cloud.get("/healthz")["faults"]
    assert faults == {"Refusal": 5, "MalformedFrame": 5, "UnknownSchema": 1, "OversizeFrame": 1}
    assert [s["id"] for s in cloud.samples()] == [str(good.sample_id)]
    text = process.log_text()
    assert "Traceback" not in text
    assert text.count("is not valid") == 1  # one line a reason and minute
    assert "device cam-1" in text


async def test_sample_that_the_teacher_fails_on_is_receipted_alone(cloud, mosquitto):
    cloud.start()
    async with device(mosquitto) as cam:
        bad = await cam.send(sample(1, nan=True))
        good = [await cam.send(sample(label)) for label in range(10)]
        private = await cam.send(sample(1, nan=True), training_use=False)
        for label, sent in enumerate(good):
            assert (await cam.verdict(sent.sample_id)).prediction == label
        await cam.wait(lambda: bad.sample_id in cam.accepted and private.sample_id in cam.refused)
    assert "not finite" in cloud.get(f"/api/v1/samples/{bad.sample_id}")["failure"]


async def test_missing_broker_at_start_is_said_once_and_waited_for(cloud, mosquitto):
    mosquitto.stop()
    process = cloud.processes.service(cloud.config)
    process.wait_for_log("serves site", timeout=40)
    process.wait_for_log("no MQTT broker answers")
    assert cloud.get("/healthz")["broker"] == "down"
    mosquitto.start()
    process.wait_for_log("listening to the devices", timeout=20)
    assert process.log_text().count("no MQTT broker answers") == 1
    async with device(mosquitto) as cam:
        sent = await cam.send(sample(8))
        assert (await cam.verdict(sent.sample_id)).prediction == 8


async def test_broker_that_goes_away_and_comes_back_loses_nothing(cloud, mosquitto):
    process = cloud.start()
    mosquitto.restart()
    process.wait_for_log("connected again", timeout=30)
    async with device(mosquitto) as cam:
        sent = await cam.send(sample(9))
        assert (await cam.verdict(sent.sample_id)).prediction == 9
    assert "Traceback" not in process.log_text()


async def test_killed_service_loses_nothing_that_it_confirmed(cloud, mosquitto):
    process = cloud.start()
    confirmed = set()
    async with device(mosquitto) as cam:
        sent = [await cam.send(sample(n % 10), seq=n) for n in range(60)]
        await cam.wait(lambda: len(cam.verdicts) >= 10)
        process.kill()
        confirmed = set(cam.verdicts) | set(cam.accepted)
        process.start()
        await eventually(lambda: process.log_text().count("listening to") == 2, timeout=40, what="it is back")
        stored = {s["id"] for s in cloud.samples()}
        assert {str(each) for each in confirmed} <= stored
        for n, each in enumerate(sent):  # what a device does after its time-out
            if each.sample_id not in cam.verdicts:
                await cam.publish(Channel.SAMPLE, messages.encode_sample(each, sample(n % 10)))
        await cam.wait(lambda: len(cam.verdicts) == 60)
        assert all(cam.verdicts[h.sample_id][-1].prediction == n % 10 for n, h in enumerate(sent))
    rows = cloud.samples()
    assert len(rows) == 60
    assert all(row["verdict"] is not None for row in rows)


@pytest.fixture
def small_disk(cloud):
    """The service's data folder on a disk of one megabyte."""
    if os.geteuid() != 0:
        pytest.skip("a small disk of its own needs root (mount)")
    data = cloud.folder / "data"
    data.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(data)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk here: {mounted.stderr.decode().strip()}")
    yield data
    subprocess.run(["umount", "-l", str(data)], check=True)


async def test_full_disk_stores_nothing_loses_nothing_and_is_said_once(cloud, mosquitto, small_disk):
    process = cloud.start()
    async with device(mosquitto) as cam:
        first = await cam.send(sample(1))
        await cam.verdict(first.sample_id)
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(bytes(4096))
        lost = [await cam.send(sample(n), seq=n) for n in range(5)]
        process.wait_for_log("samples cannot be stored", timeout=10)
        more = await cam.send(sample(7))
        private = await cam.send(sample(2), training_use=False)
        assert (await cam.verdict(private.sample_id)).prediction == 2
        kept = (*lost, more)
        assert not {h.sample_id for h in kept} & {*cam.verdicts, *cam.accepted, *cam.refused}
        filler.unlink()
        again = await cam.send(sample(3))
        assert (await cam.verdict(again.sample_id)).prediction == 3
        process.wait_for_log("samples are stored again")
        await cam.wait(lambda: all(h.sample_id in cam.verdicts for h in kept))  # nobody sent them again
    assert {s["id"] for s in cloud.samples()} == {str(h.sample_id) for h in (first, again, *kept)}
    text = process.log_text()
    assert text.count("samples cannot be stored") == 1
    assert "Traceback" not in text
    assert process.stop() == 0


async def test_stop_answers_what_is_under_way_and_ends_in_time(cloud, mosquitto):
    process = cloud.start()
    async with device(mosquitto) as cam:
        sent = [await cam.send(sample(n % 10)) for n in range(20)]
        await cam.wait(lambda: len(cam.verdicts) >= 1)
        assert process.stop(timeout=10) == 0
        await cam.wait(lambda: len(cam.verdicts) + len(cam.accepted) >= 1)
        stored_and_unanswered = {h.sample_id for h in sent} - set(cam.verdicts)
    assert "Traceback" not in process.log_text()
    # What was not answered was not confirmed either, so that the device still has it.
    assert not stored_and_unanswered & set(cam.accepted)


def test_wrong_settings_end_in_one_line_and_a_code(tmp_path, processes):
    config = tmp_path / "cloud.toml"
    config.write_text('sight = "demo"\n')
    process = processes.service(config)
    wait_until(lambda: not process.running, timeout=20, what="the service refuses its settings")
    assert process.returncode == 2
    assert "did you mean 'site'?" in process.log_text()
    assert "Traceback" not in process.log_text()


def test_missing_teacher_ends_in_one_line_and_a_code(cloud):
    (cloud.folder / "teacher.onnx").unlink()
    process = cloud.processes.service(cloud.config)
    wait_until(lambda: not process.running, timeout=20, what="the service refuses to start")
    assert process.returncode == 65
    assert "there is no teacher" in process.log_text()
    assert "Traceback" not in process.log_text()


@pytest.fixture
def replicas(cloud, free_port):
    """Two services on one broker, database and blob store; only where their API listens tells them apart."""
    soon = ("--set", "ingest.orphan_after_s=3")
    first = cloud.start(*soon)
    second = cloud.start(*soon, "--set", f"http.port={free_port()}")
    return first, second


def instance(process) -> str:
    return re.search(r"as (\w+)", process.log_text())[1]


def counts(process) -> dict[str, int]:
    port = re.search(r"serves site \w+ on http://127\.0\.0\.1:(\d+)", process.log_text())[1]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
        return json.load(answer)["counts"]


async def test_two_replicas_share_the_work_evenly_and_need_no_settings_for_it(cloud, mosquitto, replicas):
    async with device(mosquitto, "a") as a, device(mosquitto, "b") as b:
        sent = [(dev, await dev.send(sample(n % 9), seq=n)) for n in range(200) for dev in (a, b)]
        for dev, one in sent:
            await dev.verdict(one.sample_id)
    first, second = (counts(each)["samples"] for each in replicas)
    assert first + second == 400
    assert abs(first - second) <= 0.05 * 400
    assert len(cloud.samples()) == 400
    assert instance(replicas[0]) != instance(replicas[1])
    leaders = [each for each in replicas if "this replica leads" in each.log_text()]
    assert leaders == [replicas[0]]
    for each in replicas:
        assert not re.search(r"Traceback|does another client use the id", each.log_text())


async def test_replica_that_is_killed_loses_nothing_even_if_no_device_repeats_it(cloud, mosquitto, replicas):
    doomed = replicas[0]
    name = instance(doomed)
    async with device(mosquitto) as cam:
        sent = [await cam.send(sample(n % 9), seq=n) for n in range(150)]
        await cam.wait(lambda: len(cam.verdicts) >= 5)
        doomed.kill()
        sent += [await cam.send(sample(n % 9), seq=n) for n in range(150, 200)]
        replicas[1].wait_for_log("this replica leads", timeout=30)
        doomed.start()

        def all_stored() -> bool:
            try:
                return len(cloud.samples()) == 200
            except OSError:  # it has not started yet
                return False

        await eventually(all_stored, timeout=60, what="every sample is stored")
        # Killed between a verdict's storing and its sending, the replica has told nobody: the device asks once more.
        for each in sent:
            if each.sample_id not in {*cam.verdicts, *cam.accepted}:
                await cam.publish(Channel.SAMPLE, messages.encode_sample(each, sample(each.seq % 9)))
        await cam.wait(lambda: len({*cam.verdicts, *cam.accepted}) == 200, timeout_s=60)
    assert instance(doomed) == name
    rows = cloud.samples()
    assert {row["id"] for row in rows} == {str(h.sample_id) for h in sent}
    assert len(rows) == 200


async def test_killed_service_finds_its_session_and_its_devices_again(tmp_path, broker, processes, free_port):
    cloud = Cloud(tmp_path / "cloud", broker, free_port(), processes)
    process = cloud.start()
    async with device(broker) as cam:
        await cam.state()
        first = await cam.send(sample(1))
        await cam.verdict(first.sample_id)
        process.kill()
        while_away = await cam.send(sample(2))
        process.start()
        assert (await cam.verdict(while_away.sample_id, timeout_s=40)).prediction == 2
        await cam.publish(Channel.SAMPLE, messages.encode_sample(first, sample(1)))
        await cam.verdict(first.sample_id, count=2)
    assert [d["name"] for d in cloud.get("/api/v1/devices")["items"]] == ["cam-1"]
