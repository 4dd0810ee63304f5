"""What the API takes and gives of samples, as frozen models."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import AwareDatetime, Field, StrictInt, StrictStr

from cloud_service.api.resources import Limit, Resource
from shared.messages import Name, Reason, Version

Index = Annotated[int, Field(ge=0, lt=2**31)]
# Labels in one request; it is one transaction.
MAX_LABELS = 20_000
LabelText = Annotated[str, Field(min_length=1, max_length=200)]


class SampleScope(Resource):
    """Which samples are meant; what is left out means any.

    Attributes:
        label: what the sample counts as, a person's label or else the teacher's; by name where `task` is given or the
            service serves one task, else by index.
        human_label: a person's, in the same way.
        labelled: whether a person has labelled it.
        since, until: when it was stored, with a time zone; `until` is not included.
        min_hardness, max_hardness: both included.
    """

    task: Name | None = None
    device: Name | None = None
    label: LabelText | None = None
    reason: Reason | None = None
    teacher: Version | None = None
    bundle: Version | None = None
    human_label: LabelText | None = None
    labelled: bool | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    min_hardness: Annotated[float, Field(allow_inf_nan=False)] | None = None
    max_hardness: Annotated[float, Field(allow_inf_nan=False)] | None = None


class SampleQuery(SampleScope):
    """A page of samples."""

    cursor: Annotated[str, Field(max_length=64)] | None = None
    limit: Limit = 100


class PurgeQuery(SampleScope):
    """Which samples are to be deleted for good; `dry_run` only counts them."""

    dry_run: bool = False


class DevicePurgeQuery(Resource):
    """Whether to count only."""

    dry_run: bool = False


class VerdictView(Resource):
    """The teacher's answer; `label` is an index, `name` its label where the task is served."""

    label: int
    name: str | None
    probabilities: list[float]
    temperature: float
    teacher: str
    answered_at: datetime


class HumanLabelView(Resource):
    """What a person said; it wins over the teacher."""

    label: int
    name: str | None
    by: str
    at: datetime


class SampleView(Resource):
    """A stored sample.

    Attributes:
        prediction: the edge's answer; `prediction_name`: its label where the task is served.
        inclusion_probability: the chance that such a sample was sent.
        failure: why the teacher could not answer.
        payload_bytes: of its tensor in the store, which duplicates share; 0: an earlier release stored it.
        duplicates: how many later samples were like this one.
        duplicate_of: the first sample like this one.
    """

    id: UUID
    device: str
    task: str
    seq: int
    bundle_version: str
    prediction: int
    prediction_name: str | None
    hardness: float
    reason: str
    inclusion_probability: float
    stored_at: datetime
    verdict: VerdictView | None
    human: HumanLabelView | None
    failure: str | None
    payload_bytes: int
    duplicates: int
    duplicate_of: UUID | None


class SampleDetail(SampleView):
    """A sample with the names of its task's labels, in the order of the probabilities; null: not served."""

    labels: list[str] | None


class SamplePage(Resource):
    """Samples, newest first; `next` goes into `cursor` for the following page."""

    items: list[SampleView]
    next: str | None


class SampleGroup(Resource):
    """How many samples share these.

    Attributes:
        label: a person's, or else the teacher's; null where there is neither.
        labelled: how many of them a person has labelled.
    """

    task: str
    device: str
    reason: str
    label: int | None
    count: int
    labelled: int


class SampleSummary(Resource):
    """Counts of stored samples.

    Attributes:
        answered: with a label, the teacher's or a person's; labelled: with a person's.
    """

    total: int
    answered: int
    labelled: int
    groups: list[SampleGroup]


class HistogramQuery(Resource):
    """Which samples are counted; `task` may be left out where the service serves one."""

    task: Name | None = None
    device: Name | None = None
    since: AwareDatetime | None = None


class ClassCount(Resource):
    """How many samples count as this label."""

    label: int
    name: str | None
    count: int


class HistogramsView(Resource):
    """How a task's samples spread.

    Attributes:
        classes: by label, the ones without samples included.
        hardness: samples in each of 20 equal bins of [0, 1]; what is outside counts in the bin at its end.
    """

    task: str
    classes: list[ClassCount]
    hardness: list[int]


class Purge(Resource):
    """What was deleted, or would be.

    Attributes:
        samples: rows.
        bytes: of the samples' tensors, one that several share once.
        blobs: tensors that no other sample needed; null when nothing was deleted.
        deleted: false after a dry run.
    """

    samples: int
    bytes: int
    blobs: int | None
    deleted: bool


class ExportFormat(StrEnum):
    """What an export is written as."""

    LABEL_STUDIO = "label-studio"
    JSONL = "jsonl"
    NPZ = "npz"


class ExportQuery(SampleScope):
    """Which samples are exported, how, and how many at most (the newest); null: all of them.

    Attributes:
        cursor: only those after a listing's page, or after an export that said Edgeloop-Next.
    """

    format: ExportFormat = ExportFormat.JSONL
    limit: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    cursor: Annotated[str, Field(max_length=64)] | None = None


class LabelConfigQuery(Resource):
    """Whose labelling config; `task` may be left out where the service serves one."""

    task: Name | None = None


class NewLabel(Resource):
    """One sample's label: its name, or a number for its index."""

    id: UUID
    label: LabelText | Annotated[StrictInt, Field(ge=0, lt=2**31)]


class LabelBatch(Resource):
    """Labels that people chose.

    Attributes:
        by: who; kept with each label.
        skip: take the rows that can be taken; otherwise one that cannot is an error and nothing is stored.
    """

    labels: Annotated[list[NewLabel], Field(min_length=1, max_length=MAX_LABELS)]
    by: Annotated[StrictStr, Field(min_length=1, max_length=64)] = "api"
    skip: bool = False


class ImportQuery(Resource):
    """Of an import: see `LabelBatch`."""

    by: Annotated[str, Field(min_length=1, max_length=64)] = "label-studio"
    skip: bool = False


class RefusedLabel(Resource):
    """A row that could not be taken; rows count from 1."""

    row: int
    id: str | None
    why: str


class LabelResult(Resource):
    """What became of the rows.

    Attributes:
        labelled: samples that have the label now.
        unlabelled: rows that nobody had labelled.
        refused: rows that were left out; the first 1,000.
        refused_total: how many there were.
    """

    labelled: int
    unlabelled: int
    refused: list[RefusedLabel]
    refused_total: int
