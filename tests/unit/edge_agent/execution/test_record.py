import json

import pytest

from edge_agent.execution import record
from edge_agent.execution.choice import SAFE, Choice, Limits, Measurement, choose
from edge_agent.execution.record import Key
from edge_agent.execution.settings import ExecutionSettings
from shared import manifest
from tests.sim import bundles

TWO = Choice(threads=2)
LIMITS = Limits(0.1, 0.9, 85.0)
MEASURED = (Measurement(SAFE, 100.0, 120.0, 100.0, 0.0, 1.0), Measurement(TWO, 50.0, 60.0, 100.0, 0.0, 1.0, 55.5))


@pytest.fixture
def slot(tmp_path):
    return bundles.unpacked(tmp_path / "a")


def key(slot, **settings):
    return Key.of(manifest.load(slot / "manifest.json"), ExecutionSettings(**settings))


def keep(slot, wanted):
    return record.remember(slot, wanted, choose(MEASURED, LIMITS), measurements=MEASURED, limits=LIMITS)


def test_what_is_remembered_is_found_again(slot):
    entry = keep(slot, key(slot))
    assert record.remembered(slot, key(slot)) == TWO
    assert entry == json.loads((slot.parent / "execution.json").read_text())["entries"][0]
    assert entry["chosen"] == {"provider": "CPU", "threads": 2, "kernels": "as shipped"}
    assert [each["verdict"] for each in entry["candidates"]] == ["passed", "passed"]
    assert entry["candidates"][1]["temperature_c"] == 55.5
    assert entry["reason"].startswith("CPU, 2 threads: 50 µs")


def test_nothing_is_known_of_another_model_or_other_settings(slot, tmp_path):
    keep(slot, key(slot))
    other = bundles.unpacked(tmp_path / "b", shift=1)
    assert record.remembered(other, key(other)) is None
    assert record.remembered(slot, key(slot, max_threads=1)) is None
    assert record.remembered(slot, key(slot, max_temperature_c=60.0)) is None
    assert record.remembered(slot, key(slot, measure=True, measure_s=3.0)) == TWO


@pytest.mark.parametrize(
    "change", [{"onnxruntime": "0.0.1"}, {"providers": ["CUDA", "CPU"]}, {"cores": 4096}, {"model_sha256": "0" * 64}]
)
def test_nothing_is_known_under_another_runtime_or_processor(slot, change):
    keep(slot, key(slot))
    file = slot.parent / "execution.json"
    value = json.loads(file.read_text())
    value["entries"][0]["key"] |= change
    file.write_text(json.dumps(value))
    assert record.remembered(slot, key(slot)) is None


def test_four_models_are_remembered_and_a_new_measurement_replaces_the_old_one(slot):
    keys = [key(slot, max_threads=n) for n in range(1, 6)]
    for each in (*keys, keys[-1]):
        keep(slot, each)
    assert [record.remembered(slot, each) for each in keys] == [None, TWO, TWO, TWO, TWO]
    assert len(json.loads((slot.parent / "execution.json").read_text())["entries"]) == 4


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "[" * 100_000,
        '{"schema": 2, "entries": []}',
        '{"schema": 1, "entries": {}}',
        '{"schema": 1, "entries": [1, {}]}',
    ],
)
def test_a_damaged_file_is_nothing_measured_and_is_replaced(slot, text):
    (slot.parent / "execution.json").write_text(text)
    assert record.remembered(slot, key(slot)) is None
    keep(slot, key(slot))
    assert record.remembered(slot, key(slot)) == TWO


@pytest.mark.parametrize("chosen", [None, {}, {"provider": "TPU", "threads": 1, "kernels": "float"}, "CPU"])
def test_an_entry_with_a_choice_that_is_none_is_passed_over(slot, chosen):
    keep(slot, key(slot))
    file = slot.parent / "execution.json"
    value = json.loads(file.read_text())
    value["entries"][0]["chosen"] = chosen
    file.write_text(json.dumps(value))
    assert record.remembered(slot, key(slot)) is None


def test_what_cannot_be_written_is_told_and_still_given_back(slot, caplog):
    (slot.parent / "execution.json").mkdir()
    assert keep(slot, key(slot))["chosen"]["threads"] == 2
    assert "what was measured cannot be kept" in caplog.text
    assert record.remembered(slot, key(slot)) is None
