import asyncio
import json
import os
import signal
import sys

import psutil
import pytest

from edge_agent.errors import ModelUnusable, SelfTestFailed
from edge_agent.execution.settings import ExecutionSettings
from edge_agent.updates import selftest
from edge_agent.updates.selftest import check, check_in_child, self_tester
from shared.errors import BundleError
from shared.manifest import GoldenCheck
from tests.harness import ROOT, eventually
from tests.sim import bundles


def test_check_of_a_sound_bundle_passes(tmp_path):
    result = check(bundles.unpacked(tmp_path / "b"))
    assert (result.samples, result.agreement) == (16, 1.0)
    assert result.largest_difference < 1e-5


def test_check_of_a_model_that_computes_something_else_fails_with_the_numbers(tmp_path):
    with pytest.raises(SelfTestFailed, match=r"differ by up to 0\.\d+ \(allowed 0.1\).*needed 90%"):
        check(bundles.unpacked(tmp_path / "b", wrong_golden=True))


def test_check_allows_what_the_manifest_allows(tmp_path):
    lenient = GoldenCheck(tolerance=1.0, min_agreement=0.0)
    result = check(bundles.unpacked(tmp_path / "b", wrong_golden=True, golden_check=lenient))
    assert result.agreement < 0.9


def test_check_of_an_answer_that_is_not_a_number_fails(tmp_path):
    lenient = GoldenCheck(tolerance=1.0, min_agreement=0.0)
    folder = bundles.unpacked(
        tmp_path / "b",
        golden_check=lenient,
        model=bundles.linear_model(bundles.weights(64, 10) * float("nan")),
    )
    with pytest.raises(SelfTestFailed):
        check(folder)


@pytest.mark.parametrize(
    ("model", "error"),
    [
        (b"nonsense", ModelUnusable),
        (bundles.linear_model(bundles.weights(64, 10))[:200], ModelUnusable),
        (bundles.linear_model(bundles.weights(64, 9)), ModelUnusable),
        (bundles.linear_model(bundles.weights(36, 10), shape=(6, 6)), ModelUnusable),
        (bundles.linear_model(bundles.weights(64, 10), dtype="float32"), ModelUnusable),
    ],
)
def test_check_of_a_model_that_does_not_fit_its_manifest_fails(tmp_path, model, error):
    with pytest.raises(error):
        check(bundles.unpacked(tmp_path / "b", model=model))


def test_check_of_an_altered_model_fails(tmp_path):
    folder = bundles.unpacked(tmp_path / "b")
    (folder / "model.onnx").write_bytes(b"x" + (folder / "model.onnx").read_bytes()[1:])
    with pytest.raises(BundleError, match="altered or damaged"):
        check(folder)


async def test_child_passes_a_sound_bundle(tmp_path):
    folder = bundles.unpacked(tmp_path / "b")
    assert await check_in_child(folder, timeout_s=60) == check(folder)


async def test_child_says_why_a_bundle_fails(tmp_path):
    with pytest.raises(SelfTestFailed, match="golden samples differ"):
        await check_in_child(bundles.unpacked(tmp_path / "b", wrong_golden=True), timeout_s=60)


async def test_child_with_a_model_that_never_answers_is_ended(tmp_path, new_children):
    folder = bundles.unpacked(tmp_path / "b", model=bundles.endless_model())
    with pytest.raises(SelfTestFailed, match="took longer than 2 s"):
        await check_in_child(folder, timeout_s=2.0)
    assert new_children() == []


async def test_child_that_dies_is_a_failure_of_the_model(tmp_path, new_children):
    folder = bundles.unpacked(tmp_path / "b", model=bundles.endless_model())
    testing = asyncio.create_task(check_in_child(folder, timeout_s=60))
    children = await eventually(new_children, timeout=20, what="the child runs")
    children[0].send_signal(signal.SIGKILL)
    with pytest.raises(SelfTestFailed, match="died with code -9"):
        await testing


async def test_child_is_ended_when_the_agent_stops_waiting(tmp_path, new_children):
    folder = bundles.unpacked(tmp_path / "b", model=bundles.endless_model())
    testing = asyncio.create_task(check_in_child(folder, timeout_s=60))
    await eventually(new_children, timeout=20, what="the child runs")
    testing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await testing
    assert new_children() == []


async def test_child_does_not_outlive_an_agent_that_is_killed(tmp_path):
    folder = bundles.unpacked(tmp_path / "b", model=bundles.endless_model())
    code = (
        "import asyncio, sys; from pathlib import Path; from edge_agent.updates.selftest import check_in_child; "
        "asyncio.run(check_in_child(Path(sys.argv[1]), timeout_s=60))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    agent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(folder), env=env)
    watched = psutil.Process(agent.pid)
    # Busy with the model, so it has long tied itself to its parent.
    (child,) = await eventually(watched.children, timeout=20, what="the child runs")
    await eventually(lambda: child.cpu_times().user > 1.5, timeout=30, what="the child runs the model")
    agent.kill()
    await agent.wait()
    await eventually(lambda: has_ended(child), timeout=10, what="the child is gone")


def has_ended(process: psutil.Process) -> bool:
    """Whether it runs no more, waited for by its new parent or not."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_self_tester_proves_and_then_measures_what_nobody_has(tmp_path):
    folder = bundles.unpacked(tmp_path / "b")
    settings = ExecutionSettings(measure=True, max_threads=2, measure_s=0.02)
    closeness = await self_tester(settings)(folder, timeout_s=60)
    assert closeness.samples == 16
    (entry,) = json.loads((tmp_path / "execution.json").read_text())["entries"]
    assert [each["choice"]["threads"] for each in entry["candidates"]] == [1, 2]


async def test_self_tester_measures_nothing_unless_it_is_told_to(tmp_path):
    await self_tester(ExecutionSettings())(bundles.unpacked(tmp_path / "b"), timeout_s=60)
    assert not (tmp_path / "execution.json").exists()


async def test_self_tester_refuses_like_the_self_test(tmp_path):
    folder = bundles.unpacked(tmp_path / "b", wrong_golden=True)
    with pytest.raises(SelfTestFailed, match="golden samples differ"):
        await self_tester(ExecutionSettings(measure=True))(folder, timeout_s=60)
    assert not (tmp_path / "execution.json").exists()


def test_main_prints_one_json_line(tmp_path, capsys):
    for options, code, key in (({}, 0, "samples"), ({"wrong_golden": True}, 1, "error")):
        folder = bundles.unpacked(tmp_path / f"b{code}", **options)
        assert selftest.main(folder) == code
        assert key in json.loads(capsys.readouterr().out)
