import pytest

from edge_agent.execution.loading import EngineLoader
from edge_agent.execution.settings import ExecutionSettings
from edge_agent.request import Request
from edge_agent.small_model import SmallModel
from tests.sim import bundles
from tests.sim.bundles import sample
from tests.sim.disk import fill, small_disk

LOAD = EngineLoader(ExecutionSettings())


def answered_by(parts):
    return parts.pipeline.infer(Request(sample(3))).bundle_version


def test_small_model_answers_and_gives_way(build, tmp_path, caplog):
    caplog.set_level("INFO")
    parts = build()
    bundles.make(tmp_path / "small.bundle", version="small")
    small = SmallModel(parts.pipeline, tmp_path / "small.bundle", tmp_path / "small", load=LOAD)
    for _ in range(2):
        small.use()
    assert answered_by(parts) == "small"
    for _ in range(2):
        small.give_way()
    assert answered_by(parts) == "v1"
    assert [caplog.text.count(each) for each in ("the smaller model small answers", "model v1 answers again")] == [1, 1]


def test_task_without_a_small_model_goes_on_with_its_own(build, tmp_path):
    parts = build()
    small = SmallModel(parts.pipeline, None, tmp_path / "small", load=LOAD)
    small.use()
    assert answered_by(parts) == "v1"
    small.give_way()


@pytest.mark.parametrize("options", [{"labels": ("a", "b")}, {"shape": (4, 4)}, {"task": "other"}])
def test_small_model_of_another_kind_is_refused_once_and_the_tasks_own_goes_on(build, tmp_path, caplog, options):
    parts = build()
    bundles.make(tmp_path / "small.bundle", version="small", **options)
    small = SmallModel(parts.pipeline, tmp_path / "small.bundle", tmp_path / "small", load=LOAD)
    for _ in range(3):
        small.use()
    assert answered_by(parts) == "v1"
    assert caplog.text.count("cannot be used") == 1


def test_small_model_that_is_not_there_is_said_once(build, tmp_path, caplog):
    parts = build()
    small = SmallModel(parts.pipeline, tmp_path / "none.bundle", tmp_path / "small", load=LOAD)
    for _ in range(3):
        small.use()
    assert answered_by(parts) == "v1"
    assert caplog.text.count("cannot be used") == 1


def test_small_model_on_a_full_disk_is_said_and_the_tasks_own_goes_on(build, tmp_path, caplog):
    parts = build()
    bundles.make(tmp_path / "small.bundle", version="small", padding=60_000)
    with small_disk(tmp_path / "disk", kilobytes=128) as disk:
        fill(disk)
        SmallModel(parts.pipeline, tmp_path / "small.bundle", disk / "small", load=LOAD).use()
    assert answered_by(parts) == "v1"
    assert "cannot be used" in caplog.text
