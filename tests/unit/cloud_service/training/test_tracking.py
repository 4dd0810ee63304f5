import importlib.util
import logging
import os
import sys

import pytest

from cloud_service.tasks.tracking import TrackingSettings
from cloud_service.training import tracking
from cloud_service.training.request import ModelMetrics, TrainingReport
from cloud_service.training.tracking import check_installed, metrics, parameters, track
from shared.errors import SettingsError

installed = pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None,
    reason="the extra mlflow is not installed: pip install 'edgeloop[mlflow]'",
)


def numbers(accuracy):
    return ModelMetrics(
        base_accuracy=accuracy,
        base_accuracy_per_class={"a": accuracy, "b & c": 0.5},
        field_agreement=None,
        field_agreement_per_class={},
        calibration_error=0.02,
        offload_rate=0.1,
        model_bytes=7000,
        latency_us=12.5,
    )


def report(**changes):
    given = {
        "task": "rows", "version": "rows-2", "parent": "rows-1", "passed": True, "reasons": (),
        "before": numbers(0.8), "after": numbers(0.9), "latency_ratio": 1.1, "temperature": 1.5, "threshold": 0.3,
        "expected_agreement": 0.95, "expected_offload_rate": 0.1, "goal_met": True, "goal_would_need": 0.05,
        "samples": 60, "bundle_sha256": "ab" * 32, "bundle_bytes": 9000, "stage_seconds": {"distill": 3.0},
        "lineage": {"seed": 0, "settings": {"steps": 100}, "note": "x" * 9000},
    }  # fmt: skip
    return TrainingReport.model_validate(given | changes)


def test_parameters_are_the_lineage():
    found = parameters(report())
    assert (found["seed"], found["settings.steps"]) == ("0", "100")
    assert len(found["note"]) == 500


def test_metrics_are_the_numbers_of_both_models():
    found = metrics(report())
    assert found["after/base_accuracy"] == 0.9
    assert found["before/base_accuracy"] == 0.8
    assert found["after/base_accuracy_per_class/b _ c"] == 0.5
    assert (found["latency_ratio"], found["passed"], found["seconds/distill"]) == (1.1, 1.0, 3.0)
    assert "after/field_agreement" not in found


def test_metrics_of_a_first_model_have_no_before():
    found = metrics(report(before=None, latency_ratio=None))
    assert not [name for name in found if name.startswith("before") or name == "latency_ratio"]


def test_missing_extra_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"pip install 'edgeloop\[mlflow\]'"):
        check_installed()


@pytest.fixture
def environment():
    """What `track` sets for MLflow is gone after the test."""
    before = dict(os.environ)
    yield os.environ
    os.environ.clear()
    os.environ.update(before)


# MLflow warns of its own file store, and leaves files open.
@installed
@pytest.mark.filterwarnings("ignore")
def test_run_is_noted_with_settings_numbers_and_files(tmp_path, environment):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "report.json").write_text("{}")
    settings = TrackingSettings(uri=(tmp_path / "store").as_uri())
    assert track(settings, report(passed=False, reasons=("too large",)), folder)
    client = tracking._client(settings.uri)
    experiment = client.get_experiment_by_name("edgeloop/rows")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "rows-2"
    assert run.info.status == "FAILED"
    assert run.data.params["settings.steps"] == "100"
    assert run.data.metrics["after/base_accuracy"] == 0.9
    assert run.data.tags["edgeloop.reasons"] == "too large"
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["report.json"]
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"

    assert track(settings, report(), folder)  # a resumed run
    assert len(client.search_runs([experiment.experiment_id])) == 1
    # Packed again because its version was taken: the same run, under its new name.
    renamed = report(version="rows-2-2", bundle_sha256="cd" * 32)
    assert track(settings, renamed, folder)
    (again,) = client.search_runs([experiment.experiment_id])
    assert (again.info.run_id, again.info.run_name) == (run.info.run_id, "rows-2-2")


@installed
@pytest.mark.filterwarnings("ignore")
def test_files_stay_where_they_are_if_asked(tmp_path, environment):
    (tmp_path / "report.json").write_text("{}")
    settings = TrackingSettings(uri=(tmp_path / "store").as_uri(), experiment="mine", artefacts=False)
    assert track(settings, report(), tmp_path)
    client = tracking._client(settings.uri)
    (run,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert client.list_artifacts(run.info.run_id) == []
    assert run.info.status == "FINISHED"


@installed
@pytest.mark.filterwarnings("ignore")
def test_store_that_cannot_be_reached_costs_a_warning(tmp_path, environment, caplog):
    (tmp_path / "store").write_text("a file where the store's folder should be")
    with caplog.at_level(logging.WARNING):
        assert not track(TrackingSettings(uri=(tmp_path / "store").as_uri()), report(), tmp_path)
    assert "rows-2 was not noted in MLflow" in caplog.text
