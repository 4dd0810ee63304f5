"""The agent on 64-bit Arm: its self-test against samples recorded on this processor, an answer, and its memory."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.models import images, resnet8_bundle
from edge_agent.execution.choice import SAFE, Choice, Kernels
from edge_agent.execution.engine import Engine
from shared import bundle, manifest, uncertainty
from tests.lab import arm, arm_board
from tests.lab.arm import ArmDevice, arm_programs, base_root
from tests.lab.arm_board import HOST, ArmBoard
from tests.lab.rootfs import overlay

SHAPE = (32, 32, 3)
SAMPLES = 300  # on x86 it is measured after 1,000; nothing grows any more after these
# What is measured, 76 to 78 and 74 to 75.5, and a little: where the allocator's pieces fall differs from run to run.
# The goals of 90 and 75 MB are docs/benchmarks.md's.
MOST_RSS_MB, MOST_PSS_MB = 79.0, 77.0
ALL = (SAFE, Choice(kernels=Kernels.FLOAT))

# What the device does with a candidate: the self-test in a child, then every way of running it, each in a child too.
SELF_TEST = """
import asyncio, sys
from pathlib import Path
from edge_agent.execution.settings import ExecutionSettings
from edge_agent.updates.selftest import self_tester
settings = ExecutionSettings(measure=True, max_threads=1, measure_s=0.01)
print(asyncio.run(self_tester(settings)(Path(sys.argv[1]), timeout_s=110)).largest_difference)
"""
# What `/proc` says of the agent: after its samples, and once it has given back what only the start needed.
MEMORY = """
import time
import numpy as np
import edge_agent.cli  # as `edge-agent run` has
from edge_agent import EdgeAgent
from edge_agent.footprint import give_back
samples = np.load("/data/samples.npy")

def tell(agent, count):
    for i in range(count):
        agent.infer(samples[i % len(samples)])
    time.sleep(3)
    with open("/proc/self/smaps_rollup") as file:
        sizes = dict(line.split()[:2] for line in file.readlines()[1:])
    print(int(sizes["Rss:"]) / 1024, int(sizes["Pss:"]) / 1024)

with EdgeAgent.open("/data/board.toml") as agent:
    tell(agent, SAMPLES)
    give_back()  # as the agent does after a while
    tell(agent, SAMPLES)
"""


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArmDevice]:
    reason = arm.why_not()
    if reason is not None:
        pytest.skip(reason)
    with arm_programs(), overlay(tmp_path_factory.mktemp("arm"), base_root()) as root:
        yield ArmDevice(root)


@pytest.fixture(scope="module")
def slot(device: ArmDevice) -> Path:
    """A ResNet8 in int8 as the cloud quantizes it, its golden outputs recorded on this processor."""
    resnet8_bundle(device.data / "images.bundle", SHAPE, threshold=None)
    bundle.unpack(device.data / "images.bundle", device.data / "slots" / "a")
    np.save(device.data / "samples.npy", images(SHAPE, 16, seed=2))
    np.save(device.data / "one.npy", images(SHAPE, 1, seed=2)[0])
    (device.data / "agent.toml").write_text(
        'site = "lab"\ndevice = "arm-1"\nstate_dir = "/data/state"\n[tasks.images]\nbundle = "/data/images.bundle"\n'
    )
    return device.data / "slots" / "a"


def test_processor_is_an_arm(device):
    assert device.run("python3", "-c", "import platform; print(platform.machine())").strip() == "aarch64"


def test_self_test_holds_what_was_recorded_here_within_the_manifests_tolerance(device, slot):
    largest = float(device.run("python3", "-c", SELF_TEST, "/data/slots/a"))
    assert largest <= manifest.load(slot / bundle.MANIFEST).golden.tolerance
    (entry,) = json.loads((slot.parent / "execution.json").read_text())["entries"]
    differences = {Choice.parse(each["choice"]): each["golden_difference"] for each in entry["candidates"]}
    assert tuple(differences) == ALL
    assert [each["verdict"] for each in entry["candidates"]] == ["passed", "passed"], entry
    for choice, difference in differences.items():
        print(f"\nArm, {choice}: golden probabilities of x86 differ by up to {difference:.2g}", end="")


def test_self_test_refuses_a_model_that_computes_something_else(device, slot):
    description = manifest.load(slot / bundle.MANIFEST)
    golden = bundle.load_golden(slot, description)
    wrong = bundle.Golden(golden.inputs, np.roll(golden.logits, 1, axis=1))
    model = (slot / bundle.MODEL).read_bytes()
    bundle.pack(device.data / "wrong.bundle", model=model, description=description, golden=wrong)
    bundle.unpack(device.data / "wrong.bundle", device.data / "wrong" / "a")
    with pytest.raises(RuntimeError, match="this processor computes something else"):
        device.run("python3", "-c", SELF_TEST, "/data/wrong/a")


def test_infer_answers_as_here(device, slot):
    command = ["infer", "/data/one.npy", "--config", "/data/agent.toml", "--set", 'state_dir="/data/infer"']
    outcome = json.loads(device.run("python3", "-m", "edge_agent.cli", *command))
    logits = Engine(slot).run(np.load(device.data / "one.npy"))
    assert outcome["prediction"] == logits.argmax()
    assert outcome["confidence"] == pytest.approx(float(uncertainty.softmax(logits).max()), abs=0.02)


@pytest.mark.timeout(400)  # two minutes where nobody else computes
def test_connected_agent_stays_small(device, slot, mosquitto, tmp_path):
    if (reason := arm_board.why_not()) is not None:
        pytest.skip(reason)
    config = (device.data / "agent.toml").read_text().replace("/data/state", "/tmp/state")
    (device.data / "board.toml").write_text(f'{config}[broker]\nhost = "{HOST}"\nport = {mosquitto.port}\n')
    lines = ArmBoard(device.root, tmp_path).run(MEMORY.replace("SAMPLES", str(SAMPLES)), timeout=300)
    (first_rss, first_pss), (rss, pss) = [map(float, line.split()) for line in lines]
    mosquitto.stop()  # its log is whole now
    assert "edge-lab-arm-1" in mosquitto.log_text(), "the agent was connected"
    print(f"\nArm, {SAMPLES} samples: {first_rss:.1f} MB RSS, {first_pss:.1f} MB PSS; ", end="")
    print(f"the start's code given back, as many again: {rss:.1f} and {pss:.1f} MB", end="")
    assert rss <= MOST_RSS_MB
    assert pss <= MOST_PSS_MB
