import json

import pytest

from edge_agent.execution import proving
from edge_agent.execution.choice import SAFE, Choice, Kernels, Measurement, Provider
from edge_agent.execution.settings import ExecutionSettings
from shared.errors import BundleError
from tests.sim import bundles
from tests.sim.children import ScriptedChildren

FLOAT, TWO = Choice(kernels=Kernels.FLOAT), Choice(threads=2)
ALL = ExecutionSettings(measure=True, max_threads=2)


def ok(choice, p50):
    return Measurement(choice, p50, p50, p50, 0.0, 1.0)


@pytest.fixture
def slot(tmp_path):
    return bundles.unpacked(tmp_path / "a")


@pytest.fixture
def quantized(tmp_path):
    return bundles.unpacked(tmp_path / "q", model=bundles.quantized_model(bundles.weights(64, 10)))


def test_wanted_of_a_quantized_model_has_float_kernels_too(slot, quantized):
    assert proving.wanted(slot, ALL) == (SAFE, TWO)
    assert proving.wanted(quantized, ALL) == (SAFE, FLOAT, TWO, Choice(threads=2, kernels=Kernels.FLOAT))


def test_wanted_without_measuring_is_the_best_provider_which_must_prove_itself(slot):
    there = (Provider.CUDA, Provider.XNNPACK, Provider.CPU)
    assert proving.wanted(slot, ExecutionSettings(), there) == (SAFE, Choice(Provider.CUDA))
    assert proving.wanted(slot, ExecutionSettings(provider="XNNPACK"), there) == (SAFE, Choice(Provider.XNNPACK))
    assert proving.wanted(slot, ExecutionSettings(provider="QNN"), there) == (SAFE,)
    assert proving.wanted(slot, ExecutionSettings()) == (SAFE,)


def test_wanted_of_a_provider_that_is_not_there_measures_the_cpu(slot):
    settings = ExecutionSettings(measure=True, provider="QNN", max_threads=2)
    assert proving.wanted(slot, settings, (Provider.CUDA, Provider.CPU)) == (SAFE, TWO)


def test_due_is_what_nobody_has_measured(slot, quantized):
    assert not proving.due(slot, ExecutionSettings())
    assert proving.due(slot, ALL)
    with pytest.raises(BundleError):
        proving.due(slot.parent, ALL)


async def test_find_out_measures_in_one_child_and_keeps_the_fastest(slot):
    children = ScriptedChildren([ok(SAFE, 100.0), ok(TWO, 60.0)])
    entry = await proving.find_out(slot, ALL, timeout_s=60, spawn=children)
    assert entry["chosen"]["threads"] == 2
    assert children.asked == [[SAFE, TWO]]
    assert not proving.due(slot, ALL)


async def test_find_out_goes_on_behind_a_candidate_that_kills_the_process(quantized):
    last = Choice(threads=2, kernels=Kernels.FLOAT)
    children = ScriptedChildren([ok(SAFE, 100.0), ok(TWO, 90.0), ok(last, 80.0)], dies_with=-11)
    entry = await proving.find_out(quantized, ALL, timeout_s=60, spawn=children)
    assert children.asked == [[SAFE, FLOAT, TWO, last], [TWO, last]]
    assert [each["verdict"] for each in entry["candidates"]] == ["passed", "fault", "passed", "passed"]
    assert entry["candidates"][1]["fault"] == "the process died: SIGSEGV"
    assert entry["chosen"] == {"provider": "CPU", "threads": 2, "kernels": "float"}


@pytest.mark.parametrize(("code", "said"), [(1, "code 1"), (-99, "signal 99")])
async def test_find_out_with_nothing_but_deaths_stays_safe(slot, code, said):
    children = ScriptedChildren([], dies_with=code)
    entry = await proving.find_out(slot, ALL, timeout_s=60, spawn=children)
    assert entry["chosen"] == {"provider": "CPU", "threads": 1, "kernels": "as shipped"}
    assert [each["fault"] for each in entry["candidates"]] == [f"the process died: {said}"] * 2
    assert children.ended == 2


async def test_find_out_passes_over_what_gets_stuck_and_what_there_is_no_time_for(slot):
    children = ScriptedChildren([ok(SAFE, 100.0)], dies_with=None)
    entry = await proving.find_out(slot, ALL, timeout_s=0.05, spawn=children)
    assert entry["candidates"][1]["fault"] == "it took longer than 0 s"
    late = await proving.find_out(slot, ALL, timeout_s=-1.0, spawn=children)
    assert [each["fault"] for each in late["candidates"]] == ["there was no time left to measure it"] * 2
    assert children.ended == 1


async def test_find_out_reads_past_what_libraries_print(slot):
    noise = b"QNN: hello\n" + b"x" * 10_000 + b'\n{"choice": {}}\n[1]\n' + json.dumps({"choice": None}).encode() + b"\n"
    children = ScriptedChildren([ok(SAFE, 100.0), ok(TWO, 60.0)], noise=noise)
    entry = await proving.find_out(slot, ALL, timeout_s=60, spawn=children)
    assert [each["p50_us"] for each in entry["candidates"]] == [100.0, 60.0]


async def test_find_out_in_a_real_child(quantized, new_children):
    entry = await proving.find_out(
        quantized, ExecutionSettings(measure=True, max_threads=1, measure_s=0.02), timeout_s=60
    )
    assert [each["verdict"] for each in entry["candidates"]] == ["passed", "passed"], entry
    assert all(each["p50_us"] > 1 for each in entry["candidates"])
    assert "int8 kernels run at" in entry["reason"]
    assert new_children() == []
