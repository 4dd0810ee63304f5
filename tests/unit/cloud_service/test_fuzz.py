"""Hostile and broken frames: refused with a counted reason, in little memory, and the service goes on."""

import asyncio
import random
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from cloud_service.admission import Terms, admit
from shared import codec, messages
from shared.errors import FrameError
from shared.ids import new_id
from shared.manifest import TensorSpec
from shared.messages import (
    DeviceState,
    LedgerBytes,
    Refusal,
    Report,
    SpoolState,
    TaskState,
    Telemetry,
    UpdateOutcome,
)
from shared.topics import Channel
from tests.sim.bundles import sample
from tests.sim.device import BareDevice, header
from tests.sim.ingest import CONTROL, SAMPLES, tick, until

FRAMES = 10_000
SEED = 20_261_124
TERMS = {"digits": Terms(TensorSpec(shape=(8, 8), dtype="uint8"), 10)}
# A value is put in the place of a field's: wrong kinds, wrong signs, wrong sizes, and what breaks careless code.
ODD = (None, -1, 0, 2**63, 2**64 - 1, 1e300, "", "x" * 3_000, "../..", bytes(40), [], {}, [[]], True, "\x00", 0.5)


def frames() -> list[tuple[Channel, bytes]]:
    """One real frame of each kind that devices send."""
    digits = TaskState(bundle_version="v1", bundle_sha256="a" * 64)
    state = DeviceState(online=True, agent_version="0.1.0", tasks={"digits": digits})
    telemetry = Telemetry(seq=1, uptime_s=5.0, tasks={}, ledger=LedgerBytes(), spool=SpoolState(items=3))
    report = Report(
        report_id=new_id(),
        task="digits",
        version="v2",
        bundle_sha256="b" * 64,
        from_version="v1",
        outcome=UpdateOutcome.ACTIVATED,
    )
    return [
        (Channel.SAMPLE, messages.encode_sample(header(), sample(3))),
        (Channel.SAMPLE, messages.encode_sample(header(deadline_ms=50, training_use=False), sample(4))),
        (Channel.STATE, messages.encode(state)),
        (Channel.TELEMETRY, messages.encode(telemetry)),
        (Channel.REPORT, messages.encode(report)),
    ]


def flipped(rng: random.Random, frame: bytes) -> bytes:
    changed = bytearray(frame)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def cut(rng: random.Random, frame: bytes) -> bytes:
    return frame[: rng.randrange(len(frame))]


def doubled(rng: random.Random, frame: bytes) -> bytes:
    at, size = rng.randrange(len(frame)), rng.randrange(1, 40)
    return frame[: at + size] + frame[at:]


def swollen(rng: random.Random, frame: bytes) -> bytes:
    """A length, or what stands in its place, that claims a lot."""
    at = rng.randrange(len(frame))
    return frame[:at] + rng.choice((b"\x5b", b"\x9b", b"\xbb", b"\x7b", b"\x1b")) + b"\xff" * 8 + frame[at + 1 :]


def odd_field(rng: random.Random, frame: bytes) -> bytes:
    value = codec.decode(frame)
    fields = value["header"] if "header" in value and rng.random() < 0.9 else value
    name = rng.choice([*fields, "unknown"])
    fields[name] = rng.choice(ODD)
    return codec.encode(value)


MUTATIONS: tuple[Callable[[random.Random, bytes], bytes], ...] = (flipped, cut, doubled, swollen, odd_field)


def mutated(seed: int, count: int) -> list[tuple[Channel, bytes]]:
    rng = random.Random(seed)
    real = frames()
    chosen = rng.choices(real, weights=(6, 2, 1, 1, 1), k=count)
    return [(channel, rng.choice(MUTATIONS)(rng, frame)) for channel, frame in chosen]


async def test_ten_thousand_mutated_frames_are_refused_or_taken_and_the_service_goes_on(cloud, broker, clock, caplog):
    caplog.set_level("INFO")
    sent = mutated(SEED, FRAMES)
    async with cloud() as ingest, BareDevice(broker.connect, "demo", "cam-1") as cam:
        for channel, frame in sent:
            await cam.publish(channel, frame)
        samples = sum(channel is Channel.SAMPLE for channel, _ in sent)
        await until(lambda: ingest.counts.samples == samples, timeout_s=60)
        good = await cam.send(sample(7))
        assert (await cam.verdict(good.sample_id)).prediction == 7
        # Before the clock goes on: what is noted a minute after the others is said again.
        await until(lambda: broker.held(SAMPLES) == 0 and broker.held(CONTROL) == 0, timeout_s=60)
        for _ in range(6):
            await tick(clock, 20.0)
        counts, faults = ingest.counts, ingest.faults
    # Every frame is accounted for: what was not refused was stored, answered without it, or the same as one before.
    assert set(faults) <= {"MalformedFrame", "UnknownSchema", "OversizeFrame", "Refusal", "topic", "report"}
    assert 0.5 * FRAMES < sum(faults.values()) < FRAMES
    assert faults["Refusal"] == counts.refused
    assert cam.refused
    said = [record for record in caplog.records if record.name == "cloud_service.ingest" and record.levelname != "INFO"]
    assert len(said) <= len(faults) + 2, [record.getMessage() for record in said]
    assert sum("in the last 60 s also" in record.message for record in said) == 1
    assert not [record for record in caplog.records if record.exc_info or "Traceback" in record.getMessage()]


def test_every_mutation_is_refused_or_admitted_and_nothing_else():
    rng = random.Random(SEED)
    frame = messages.encode_sample(header(), sample(3))
    for _ in range(2_000):
        broken = rng.choice(MUTATIONS)(rng, frame)
        try:
            result = admit("cam-1", broken, terms=TERMS, max_bytes=codec.MAX_FRAME_BYTES)
        except FrameError:
            continue
        if not isinstance(result, Refusal):
            assert result.tensor.shape == (8, 8)
            assert result.tensor.dtype == np.uint8


def _sample_with(tensor: bytes) -> bytes:
    fields = header().__dict__
    return b"\xa2\x66header" + codec.encode(fields) + b"\x66tensor" + tensor


HOSTILE = {
    # [46341, 46341] of uint8: 2 GB, with four bytes.
    "two_gigabytes_claimed": _sample_with(b"\xd8\x28\x82\x82\x19\xb5\x05\x19\xb5\x05\xd8\x40\x44\x00\x01\x02\x03"),
    "two_gigabytes_of_bytes_claimed": _sample_with(b"\xd8\x28\x82\x82\x08\x08\xd8\x40\x5a\x7f\xff\xff\xff" + bytes(64)),
    "sizes_whose_product_overflows": _sample_with(
        b"\xd8\x28\x82\x82" + b"\x1b" + b"\x7f" + b"\xff" * 7 + b"\x02" + b"\xd8\x40\x44\x00\x01\x02\x03"
    ),
    "list_of_2_to_the_63": _sample_with(b"\x9b\x7f" + b"\xff" * 7),
    "map_of_2_to_the_63": b"\xbb\x7f" + b"\xff" * 7,
    "text_of_2_to_the_63": b"\x7b\x7f" + b"\xff" * 7,
    "hundred_thousand_lists_in_each_other": b"\x81" * 100_000 + b"\x00",
    "tags_in_each_other": b"\xd8\x28" * 50_000 + b"\x00",
    # What expands when a library is helpful: a big number of a million digits, a decimal fraction, shared values.
    "big_number": _sample_with(b"\xc2\x5a\x00\x0f\x42\x40" + b"\xff" * 1_000_000),
    "decimal_fraction": _sample_with(b"\xc4\x82\x1a\x05\xf5\xe1\x00\x01"),
    "shared_values": _sample_with(b"\xd8\x1c\x81\xd8\x1d\x00"),
    # A compressed stream has no place in the contract: it is bytes of another kind than a typed array.
    "gzip_bomb": _sample_with(b"\xd8\x28\x82\x82\x19\x40\x00\x19\x40\x00\xd8\x40\x58\x20\x1f\x8b\x08" + bytes(29)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_frame_is_refused_before_anything_is_allocated(name):
    frame = HOSTILE[name]
    with pytest.raises(FrameError):  # what is imported and cached at first does not count
        admit("cam-1", frame, terms=TERMS, max_bytes=codec.MAX_FRAME_BYTES)
    tracemalloc.start()
    try:
        with pytest.raises(FrameError):
            admit("cam-1", frame, terms=TERMS, max_bytes=codec.MAX_FRAME_BYTES)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(frame) + 300_000


async def test_topic_of_another_site_is_refused_undecoded(cloud, broker):
    async with cloud() as ingest:
        frame = messages.encode_sample(header(), sample(3))
        broker.misroute(SAMPLES, "edgeloop/v1/elsewhere/cam-1/sample", frame)
        broker.misroute(CONTROL, "edgeloop/v1/elsewhere/cam-1/state", b"\x00")
        broker.misroute(SAMPLES, "edgeloop/v1/demo/cam-1/sample/more", frame)
        await until(lambda: ingest.faults.get("topic") == 3)
        await asyncio.sleep(0)
        assert ingest.counts.samples == 0
        assert broker.held(SAMPLES) == 0
