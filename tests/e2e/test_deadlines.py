"""`infer` keeps its deadline, whatever becomes of the network; a verdict that comes later is a correction."""

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edge_agent.outcomes import AnsweredBy
from shared.pauses import set_imports_aside
from tests.harness import find_mosquitto, wait_until
from tests.harness.brokers import NO_MOSQUITTO
from tests.harness.late_cloud import OTHER
from tests.harness.lines import lateness
from tests.harness.outages import OUTAGES, agent_at, is_connected, late_cloud, late_ms
from tests.sim import bundles
from tests.sim.bundles import hard_sample

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(find_mosquitto() is None, reason=NO_MOSQUITTO),
]

DEADLINES_S = (0.005, 0.02, 0.05)
CALLS = 120
PROMISED_MS = 5.0
# benchmarks/hardpath.py measures the promise; here a busy machine must not fail, and what waits for a network does.
MARGIN = 10


@pytest.fixture(autouse=True)
def imports_set_aside():
    """What the other tests have imported and left is not walked through here; `edge-agent run` does so with its own."""
    gc.collect()
    set_imports_aside()
    yield
    gc.unfreeze()


@pytest.fixture
def bundle(tmp_path):
    bundles.make(tmp_path / "digits.bundle", version="factory")
    return tmp_path / "digits.bundle"


@pytest.fixture
def large_bundle(tmp_path):
    """Samples of 150 KB: a few of them fill any line."""
    bundles.make(tmp_path / "photos.bundle", version="factory", task="photos", shape=(224, 224, 3), threshold=0.0)
    return tmp_path / "photos.bundle"


def asked(agent, sample):
    return [late_ms(agent, sample, deadline_s=DEADLINES_S[n % len(DEADLINES_S)]) for n in range(CALLS)]


@pytest.mark.parametrize("name", OUTAGES)
def test_infer_ends_soon_after_its_deadline_whatever_the_network_does(name, tmp_path, bundle):
    with lateness(tmp_path) as machine, OUTAGES[name](tmp_path, bundle) as agent:
        late = asked(agent, hard_sample(3))
        excused = machine.worst_ms
    print(f"{name}: {max(late):.2f} ms beyond the deadline; the machine itself was {excused:.2f} ms late")
    assert max(late) <= MARGIN * PROMISED_MS + excused


@pytest.mark.parametrize("name", ["the broker stands still", "the line is cut every 50 ms"])
def test_large_samples_do_not_hold_it_up_either(name, tmp_path, large_bundle):
    sample = np.random.default_rng(1).integers(0, 17, (224, 224, 3), dtype=np.uint8)
    with lateness(tmp_path) as machine, OUTAGES[name](tmp_path, large_bundle) as agent:
        late = asked(agent, sample)
        excused = machine.worst_ms
    print(f"{name}, 150 KB: {max(late):.2f} ms beyond the deadline; the machine itself was {excused:.2f} ms late")
    assert max(late) <= MARGIN * PROMISED_MS + excused


def test_caller_waits_no_longer_for_others_than_for_itself(tmp_path, bundle):
    """Several threads ask at once, and nobody answers."""
    with lateness(tmp_path) as machine, OUTAGES["the broker stands still"](tmp_path, bundle) as agent:
        with ThreadPoolExecutor(4) as pool:
            late = list(pool.map(lambda n: late_ms(agent, hard_sample(n % 10), deadline_s=0.03), range(200)))
        excused = machine.worst_ms
    print(f"four callers: {max(late):.2f} ms beyond the deadline; the machine itself was {excused:.2f} ms late")
    assert max(late) <= MARGIN * PROMISED_MS + excused


def test_late_verdict_is_a_correction_and_told_once(tmp_path, bundle):
    told = []
    with late_cloud(tmp_path) as port, agent_at(port, tmp_path, bundle, on_correction=told.append) as agent:
        wait_until(lambda: is_connected(agent), timeout=15, what="the agent is connected")
        late = [agent.infer(hard_sample(3), deadline=0.01) for _ in range(30)]
        in_time = agent.infer(hard_sample(3), deadline=5.0)
        wait_until(lambda: len(told) >= 30, timeout=10, what="every late verdict was told")
        assert agent.wait_until_delivered(10)
    assert {(outcome.answered_by, outcome.prediction) for outcome in late} == {(AnsweredBy.EDGE_AFTER_DEADLINE, 3)}
    assert (in_time.answered_by, in_time.prediction) == (AnsweredBy.CLOUD, OTHER)
    assert sorted(each.sample_id for each in told) == sorted(each.sample_id for each in late)
    assert {each.prediction for each in told} == {OTHER}
