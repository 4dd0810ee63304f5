"""Notes a finished run in MLflow, for those who keep their experiments there; off by default.

The extra `mlflow` brings mlflow-skinny. MLflow's own telemetry is turned off before the import. A tracking server that
does not answer costs a warning, never the run: its result is in the run's folder and in edgeloop's database either way.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from cloud_service.tasks.tracking import TrackingSettings
from cloud_service.training.request import NOTED
from shared import atomic
from shared.errors import SettingsError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from cloud_service.training.request import ModelMetrics, TrainingReport

log = logging.getLogger(__name__)

ARTEFACTS = ("report.json", "lineage.json", "calibrate.json", "candidate.bundle")
_BUNDLE_TAG = "edgeloop.bundle_sha256"
_LONGEST_PARAMETER = 500
# With these a server that is down delays the end of a run by seconds; MLflow's own would be a quarter of an hour.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


def check_installed() -> None:
    """See before hours of training that its end can be noted.

    Raises:
        SettingsError: mlflow is not installed.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise SettingsError("tracking is asked for and mlflow is missing: pip install 'edgeloop[mlflow]'")


def track(settings: TrackingSettings, report: TrainingReport, folder: Path) -> bool:
    """Note a run's settings, numbers and files; what is noted already (by the bundle's hash) is not noted twice.

    Args:
        settings: where.
        report: what the run came to.
        folder: the run's, with its files.

    Returns:
        Whether the run is noted now.
    """
    check_installed()
    # mlflow wraps what its stores, its server and the network raise in types of each of them; none may cost the run.
    try:
        _note(settings, report, folder)
    except Exception as err:  # noqa: BLE001
        first = (str(err).splitlines() or [type(err).__name__])[0]
        log.warning("%s was not noted in MLflow at %s: %s", report.version, settings.uri, first)
        return False
    return True


def parameters(report: TrainingReport) -> dict[str, str]:
    """What the run was made with: every entry of its lineage, by its dotted name."""
    from cloud_service.training.lineage import flatten

    return {_name(name): str(value)[:_LONGEST_PARAMETER] for name, value in flatten("", report.lineage)}


def metrics(report: TrainingReport) -> dict[str, float]:
    """Every number of the report: the candidate's under `after/`, the incumbent's under `before/`."""
    found: dict[str, float] = {
        "passed": float(report.passed),
        "temperature": report.temperature,
        "threshold": report.threshold,
        "expected_agreement": report.expected_agreement,
        "expected_offload_rate": report.expected_offload_rate,
        "samples": float(report.samples),
        "bundle_bytes": float(report.bundle_bytes),
    }
    if report.latency_ratio is not None:
        found["latency_ratio"] = report.latency_ratio
    for side, numbers in (("before", report.before), ("after", report.after)):
        if numbers is not None:
            found |= {_name(f"{side}/{name}"): value for name, value in _numbers(numbers)}
    return found | {f"seconds/{stage}": seconds for stage, seconds in report.stage_seconds.items()}


def _numbers(metrics: ModelMetrics) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in metrics.model_dump().items():
        if isinstance(value, dict):
            found += [(f"{name}/{label}", float(part)) for label, part in value.items()]
        elif value is not None:
            found.append((name, float(value)))
    return found


def _note(settings: TrackingSettings, report: TrainingReport, folder: Path) -> None:
    client = _client(settings.uri)
    name = settings.experiment or f"edgeloop/{report.task}"
    known = client.get_experiment_by_name(name)
    experiment = known.experiment_id if known is not None else client.create_experiment(name)
    if client.search_runs([experiment], f"tags.`{_BUNDLE_TAG}` = '{report.bundle_sha256}'", max_results=1):
        return
    run = _noted_before(client, report, folder) or _new_run(client, report, experiment)
    for key, number in metrics(report).items():
        client.log_metric(run, key, number)
    if settings.artefacts:
        for file in (folder / artefact for artefact in ARTEFACTS):
            if file.exists():
                client.log_artifact(run, str(file))
    # Last, as the sign that all is there: a run that was cut short here is noted again.
    client.set_tag(run, _BUNDLE_TAG, report.bundle_sha256)
    client.set_terminated(run, "FINISHED" if report.passed else "FAILED")
    atomic.write_bytes(folder / NOTED, run.encode())


def _noted_before(client: MlflowClient, report: TrainingReport, folder: Path) -> str | None:
    """The run that this folder was noted as, if it was only packed again since, because its version was taken."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run((folder / NOTED).read_text(encoding="utf-8"))
        if run.info.lifecycle_stage != "active" or run.data.params.items() != parameters(report).items():
            return None
        client.update_run(run.info.run_id, name=report.version)
    except (OSError, MlflowException):
        return None
    return str(run.info.run_id)


def _new_run(client: MlflowClient, report: TrainingReport, experiment: str) -> str:
    tags = {"edgeloop.task": report.task, "edgeloop.reasons": "; ".join(report.reasons)[:_LONGEST_PARAMETER]}
    run = str(client.create_run(experiment, run_name=report.version, tags=tags).info.run_id)
    for key, value in parameters(report).items():
        client.log_param(run, key, value)
    return run


def _client(uri: str) -> MlflowClient:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for key, value in _PATIENCE.items():
        os.environ.setdefault(key, value)
    if uri.startswith("file:"):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # whoever names a folder has made the choice
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _name(text: str) -> str:
    """Labels may hold what MLflow's names must not."""
    return re.sub(r"[^\w\-. /:]", "_", text)
