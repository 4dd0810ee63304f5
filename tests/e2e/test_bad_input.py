"""Ten thousand frames that nobody honest sends, over a real broker: each is counted, none disturbs the service."""

import time
from collections import Counter
from random import Random

import psutil
import pytest

from cloud_service.simulate.spoiling import Spoilt, spoil
from shared import messages
from shared.errors import FrameError
from shared.messages import DeviceState, LedgerBytes, Report, SpoolState, TaskState, Telemetry
from shared.topics import Channel, Topic
from tests.e2e.cloud_process import SITE, Cloud, device
from tests.e2e.simulated_link import open_link
from tests.harness import eventually
from tests.sim.bundles import sample
from tests.sim.device import header

pytestmark = pytest.mark.e2e

FRAMES = 10_000
STATE = messages.encode(
    DeviceState(online=True, tasks={"digits": TaskState(bundle_version="v1", bundle_sha256="a" * 64)})
)
TELEMETRY = messages.encode(Telemetry(seq=1, uptime_s=1.0, tasks={}, ledger=LedgerBytes(), spool=SpoolState()))


@pytest.fixture
def cloud(tmp_path, mosquitto, processes, free_port):
    return Cloud(tmp_path / "cloud", mosquitto, free_port(), processes)


def faults(cloud) -> Counter[str]:
    return Counter(cloud.get("/healthz")["faults"])


def kind_of(frame: bytes) -> str:
    """The reason with which it must be counted; nothing when it may be valid."""
    try:
        messages.decode_sample(frame)
    except FrameError as err:
        return type(err).__name__
    return ""


async def test_ten_thousand_spoilt_frames_are_counted_and_the_service_goes_on(cloud, mosquitto):
    process = cloud.start()
    service = psutil.Process(process.pid)
    rng, kinds, expected = Random(20), list(Spoilt), Counter()
    async with open_link(mosquitto, "cam-1") as link, device(mosquitto, "cam-2") as good:
        first = await good.send(sample(2))
        await good.verdict(first.sample_id)
        resting = service.memory_info().rss
        topic = str(Topic(SITE, "cam-1", Channel.SAMPLE))
        for number in range(FRAMES):
            real = messages.encode_sample(header(seq=number), sample(number % 10))
            frame = spoil(real, kinds[number % len(kinds)], rng)
            expected[kind_of(frame)] += 1
            await link.publish(topic, frame)
            if number % 1_000 == 0:
                honest = await good.send(sample(5))
                assert (await good.verdict(honest.sample_id, timeout_s=60)).prediction == 5
        may_be_valid = expected.pop("")

        def all_counted() -> bool:
            return all(faults(cloud)[kind] == count for kind, count in expected.items())

        await eventually(all_counted, timeout=60, what=f"{expected} are counted")
        last = await good.send(sample(7))
        assert (await good.verdict(last.sample_id, timeout_s=60)).prediction == 7
    assert FRAMES * 0.9 < expected.total() < FRAMES
    counted = cloud.get("/healthz")
    assert counted["counts"]["samples"] >= FRAMES
    assert set(counted["faults"]) <= {*expected, "Refusal", "TeacherError"}
    assert counted["faults"].get("Refusal", 0) <= may_be_valid
    assert service.memory_info().rss - resting < 64 * 1024**2
    text = process.log_text()
    assert "Traceback" not in text
    assert text.count("cannot be read") <= 3 * 4  # a line a reason and minute


async def test_spoilt_words_of_other_channels_are_counted_too(cloud, mosquitto):
    process = cloud.start()
    rng = Random(21)
    report = messages.encode(
        Report(
            report_id=header().sample_id,
            task="digits",
            version="v1",
            bundle_sha256="a",
            from_version="v0",
            outcome="failed",
        )
    )
    real = {Channel.STATE: STATE, Channel.TELEMETRY: TELEMETRY, Channel.REPORT: report}
    async with open_link(mosquitto, "cam-1") as link:
        for _ in range(100):
            for channel, frame in real.items():
                for kind in (Spoilt.CUT, Spoilt.TRAILING, Spoilt.NESTED, Spoilt.CLAIMED, Spoilt.STRANGE_TAG):
                    await link.publish(str(Topic(SITE, "cam-1", channel)), spoil(frame, kind, rng))
        await eventually(lambda: faults(cloud)["MalformedFrame"] == 1_500, timeout=60, what="1,500 are counted")
    assert "Traceback" not in process.log_text()


async def test_hostile_frames_are_refused_before_anything_is_allocated(cloud, mosquitto):
    process = cloud.start()
    service = psutil.Process(process.pid)
    async with open_link(mosquitto, "cam-1") as link, device(mosquitto, "cam-2") as good:
        first = await good.send(sample(2))
        await good.verdict(first.sample_id)
        resting = service.memory_info().rss
        for round_, kind in enumerate((Spoilt.CLAIMED, Spoilt.MISSHAPEN, Spoilt.NESTED, Spoilt.STRANGE_TAG), start=1):
            began = time.monotonic()
            for _ in range(50):
                await link.publish(str(Topic(SITE, "cam-1", Channel.SAMPLE)), spoil(b"", kind, Random(1)))
            await eventually(
                lambda count=50 * round_: faults(cloud)["MalformedFrame"] == count,
                timeout=20,
                what=f"{kind} is counted",
            )
            sent = await good.send(sample(3))
            await good.verdict(sent.sample_id)
            assert time.monotonic() - began < 10.0
    assert service.memory_info().rss - resting < 32 * 1024**2


async def test_topics_that_are_none_of_the_sites_reach_nobody_or_are_counted(cloud, mosquitto):
    process = cloud.start()
    frame = messages.encode_sample(header(), sample(1))
    async with open_link(mosquitto, "cam-1") as link, device(mosquitto, "cam-2") as good:
        for topic in (
            "edgeloop/v1/elsewhere/cam-1/sample",
            "edgeloop/v2/demo/cam-1/sample",
            "edgeloop/v1/demo/cam-1/verdict",
        ):
            await link.publish(topic, frame)
        for name in ("bad name", "-cam", "x" * 65, "ka\u0301mera"):
            await link.publish(f"edgeloop/v1/{SITE}/{name}/sample", frame)
        sent = await good.send(sample(3))
        await good.verdict(sent.sample_id)
        await eventually(lambda: faults(cloud) == {"topic": 4}, timeout=20, what="four topics are counted")
    assert [s["id"] for s in cloud.samples()] == [str(sent.sample_id)]
    assert "Traceback" not in process.log_text()
