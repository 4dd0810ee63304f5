"""What a training run is asked for and what it answers: the two files at the ends of a run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, JsonValue, ValidationError

from cloud_service.tasks.task import TaskDefinition
from cloud_service.training.calibrate import Calibration
from cloud_service.training.gate import ClassNumbers
from cloud_service.training.latency import LatencyRatio
from cloud_service.training.quantized import Quantized
from shared.errors import SettingsError
from shared.messages import Version
from shared.settings import Section

REQUEST, SAMPLES, INCUMBENT = "request.json", "samples.npz", "incumbent.bundle"
INCUMBENT_WEIGHTS = "incumbent.pt"
SECONDS = ".seconds.json"  # how long a stage took, behind its name; the sign that it ended
NOTED = "mlflow.run"  # the run's id in MLflow, where it was noted there
CANDIDATE, REPORT, ERROR, LINEAGE = "candidate.bundle", "report.json", "error.json", "lineage.json"


class TrainingRequest(Section):
    """Asks for a new student; `samples.npz`, `incumbent.bundle` and `incumbent.pt` beside it are optional.

    Attributes:
        task: what to train for; its paths are absolute, or relative to the process's folder.
        version: the new bundle's; None: the task's name and the first digits of the lineage's hash.
        created_at: ISO 8601, for people; nothing depends on it.
    """

    task: TaskDefinition
    version: Version | None = None
    created_at: str = ""


class ModelMetrics(Section):
    """One model's numbers.

    Attributes:
        base_accuracy: on the held-out base samples, int8 in onnxruntime.
        base_accuracy_per_class: the same by label.
        field_agreement: with the verdicts on the uploads, weighted to the stream; None without uploads, or with too
            few to hold some out. The candidate's is out of fold (float), less what its shipped file loses against its
            own float student on all uploads; the incumbent's its own (int8), both on the uploads that the incumbent did
            not learn from, if there are enough.
        field_agreement_per_class: the same by the teacher's answer, unweighted, of the float students.
        calibration_error: expected, at the model's own temperature, on the uploads, or the base samples without any.
        offload_rate: fraction of the stream at the model's own threshold, estimated from the same samples.
        model_bytes: size of model.onnx.
        latency_us: median of one sample, in microseconds, on the training machine.
    """

    base_accuracy: float
    base_accuracy_per_class: dict[str, float]
    field_agreement: float | None
    field_agreement_per_class: dict[str, float]
    calibration_error: float
    offload_rate: float
    model_bytes: int
    latency_us: float


class VariantReport(Section):
    """What came of one further variant of a run; it is packed whatever the gate says, and shipped only if it passed.

    Attributes:
        name: the variant's.
        version: of its bundle.
        bundle: its file in the run's folder.
        passed: whether the gate let it through.
        reasons: why not, in words.
        after: its numbers.
        latency_ratio: its latency over the incumbent's.
        profiles: by device profile, why it does not fit it; empty: it fits.
        threshold: in its manifest.
        expected_offload_rate: at the threshold.
        quantized: how its file became small and what that cost; None in older reports.
        macs_left: share of the whole student's multiply-accumulates, where it was pruned.
        bundle_sha256: of its bundle.
        bundle_bytes: its size.
    """

    name: str
    version: Version
    bundle: str
    passed: bool
    reasons: tuple[str, ...]
    after: ModelMetrics
    latency_ratio: float | None
    profiles: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    threshold: float
    expected_offload_rate: float
    quantized: Quantized | None = None
    macs_left: float | None = None
    bundle_sha256: str
    bundle_bytes: int


class TrainingReport(Section):
    """What a run came to.

    Attributes:
        task: its name.
        version: the candidate's.
        parent: the incumbent's version.
        passed: whether the gate let the candidate through; only then may it be shipped.
        reasons: why not, in words.
        before: the incumbent's numbers, None when there is none.
        after: the candidate's.
        latency_ratio: candidate's latency over the incumbent's.
        temperature: in the manifest.
        threshold: in the manifest.
        expected_agreement: of the final answers with the teacher's.
        expected_offload_rate: at the threshold.
        goal_met: whether the agreement goal fits into the offload budget.
        goal_would_need: the offload rate that the goal would take.
        samples: uploads trained on.
        bundle_sha256: of candidate.bundle.
        bundle_bytes: its size.
        stage_seconds: how long each stage took.
        lineage: hash of the data, settings, seed, library versions.
        calibration: thresholds for a grid of budgets, what each score is worth, reliability; None in older reports.
        classes: both models on each label's held-out base samples.
        latency: the candidate's time over the incumbent's, with its interval; None: there is no incumbent.
        memory_bytes: what a session of the candidate takes; None: it was not measured.
        profiles: by device profile, why the candidate does not fit it; empty: it fits.
        batch: samples of a training step; half of the settings' where those did not fit into memory.
        steps: of training; fewer than the settings' where held-out agreement rose no more.
        quantized: how the candidate's file became small and what that cost; None in older reports.
        variants: what else was made of the same student.
    """

    task: str
    version: Version
    parent: Version | None
    passed: bool
    reasons: tuple[str, ...]
    before: ModelMetrics | None
    after: ModelMetrics
    latency_ratio: float | None
    temperature: float
    threshold: float
    expected_agreement: float
    expected_offload_rate: float
    goal_met: bool
    goal_would_need: float
    samples: Annotated[int, Field(ge=0)]
    bundle_sha256: str
    bundle_bytes: int
    stage_seconds: dict[str, float]
    lineage: dict[str, JsonValue]
    calibration: Calibration | None = None
    classes: tuple[ClassNumbers, ...] = ()
    latency: LatencyRatio | None = None
    memory_bytes: int | None = None
    profiles: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    batch: int = 0
    steps: int = 0
    quantized: Quantized | None = None
    variants: tuple[VariantReport, ...] = ()


def read_request(folder: Path) -> TrainingRequest:
    """The request in a run's folder.

    Raises:
        SettingsError: missing, or not such a request.
    """
    try:
        return TrainingRequest.model_validate_json((folder / REQUEST).read_bytes())
    except OSError as err:
        raise SettingsError(f"no readable {REQUEST} in {folder}: {err.strerror}") from err
    except ValidationError as err:
        first = err.errors()[0]
        raise SettingsError(f"{folder / REQUEST}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from err
