import asyncio
import json
import signal

import psutil
import pytest

from edge_agent.errors import ModelUnusable, SelfTestFailed
from edge_agent.updates import selftest
from edge_agent.updates.selftest import check, check_in_child
from shared.errors import BundleError
from shared.manifest import GoldenCheck
from tests.harness import eventually
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


async def test_child_with_a_model_that_never_answers_is_ended(tmp_path):
    folder = bundles.unpacked(tmp_path / "b", model=bundles.endless_model())
    with pytest.raises(SelfTestFailed, match="took longer than 2 s"):
        await check_in_child(folder, timeout_s=2.0)
    assert psutil.Process().children() == []


async def test_child_that_dies_is_a_failure_of_the_model(tmp_path):
    folder = bundles.unpacked(tmp_path / "b", model=bundles.endless_model())
    testing = asyncio.create_task(check_in_child(folder, timeout_s=60))
    children = await eventually(psutil.Process().children, timeout=20, what="the child runs")
    children[0].send_signal(signal.SIGKILL)
    with pytest.raises(SelfTestFailed, match="died with code -9"):
        await testing


async def test_child_is_ended_when_the_agent_stops_waiting(tmp_path):
    folder = bundles.unpacked(tmp_path / "b", model=bundles.endless_model())
    testing = asyncio.create_task(check_in_child(folder, timeout_s=60))
    await eventually(psutil.Process().children, timeout=20, what="the child runs")
    testing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await testing
    assert psutil.Process().children() == []


def test_main_prints_one_json_line(tmp_path, monkeypatch, capsys):
    for options, code, key in (({}, 0, "samples"), ({"wrong_golden": True}, 1, "error")):
        folder = bundles.unpacked(tmp_path / f"b{code}", **options)
        monkeypatch.setattr("sys.argv", ["selftest", str(folder)])
        assert selftest.main() == code
        assert key in json.loads(capsys.readouterr().out)
