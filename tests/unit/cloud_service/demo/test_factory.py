import numpy as np
import pytest
import torch

from cloud_service.demo import factory
from cloud_service.demo.data import Split, load
from cloud_service.tasks.data import load_base
from cloud_service.tasks.task import TrainingSettings
from cloud_service.training.evaluate import open_runner
from cloud_service.training.progress import silent
from shared import bundle

QUICK = TrainingSettings(steps=200, views=1)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    torch.set_num_threads(1)  # as the factory's own process does
    out = tmp_path_factory.mktemp("factory")
    steps = []
    report = factory.build(3, Split.RANDOM, out, steps.append, training=QUICK, teacher_steps=30)
    return out, report, steps


def test_factory_leaves_what_the_service_and_the_devices_need(built):
    out, report, steps = built
    manifest = bundle.inspect(out / factory.BUNDLE).manifest
    assert (manifest.task, manifest.version) == ("digits", "factory")
    assert report.after.model_bytes < 8192
    base = load_base(factory.definition(out, training=QUICK))
    assert (len(base.x), len(base.x_eval)) == (3500, 500)
    assert open_runner(out / factory.TEACHER)(base.x_eval).shape == (500, 10)
    assert {step.stage for step in steps} == {
        "teacher", "distill", "quantize", "calibrate", "evaluate", "gate", "bundle",
    }  # fmt: skip


def test_factory_student_has_seen_source_pictures_only(built):
    out, report, _ = built
    assert report.samples == 0
    data = load(3, Split.RANDOM)
    base = load_base(factory.definition(out, training=QUICK))
    assert np.array_equal(base.x, data.source_train.x)
    assert np.array_equal(base.x_eval, data.source_eval.x)


def test_factory_asks_more_often_than_the_loops_student_may(built):
    _, report, _ = built
    assert report.expected_offload_rate == pytest.approx(0.25, abs=0.01)
    differ = {"offload_floor", "offload_budget", "gate"}
    settings = report.lineage["settings"]
    expected = QUICK.model_dump(mode="json")
    assert {k: v for k, v in settings.items() if k not in differ} == {
        k: v for k, v in expected.items() if k not in differ
    }
    assert settings["gate"] == {**expected["gate"], "max_model_bytes": 8192}


def test_factory_built_again_gives_the_same_bundle(built, tmp_path):
    out, report, _ = built
    again = factory.build(3, Split.RANDOM, tmp_path, silent, training=QUICK, teacher_steps=30)
    assert again.temperature == report.temperature
    first, second = (bundle.inspect(folder / factory.BUNDLE).manifest for folder in (out, tmp_path))
    assert first.files == second.files
