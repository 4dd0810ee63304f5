"""What the API takes and gives, as frozen models; the OpenAPI document is generated from them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from shared.manifest import Manifest
from shared.messages import Name, TaskState, Telemetry, Version

Limit = Annotated[int, Field(ge=1, le=1_000)]


class Resource(BaseModel):
    """Base of every request and response."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Problem(Resource):
    """An error (RFC 9457); `remedy` says what to do."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    remedy: str


class Health(Resource):
    """Whether the service works, and what it has seen since it started.

    Attributes:
        status: `degraded` while there is no broker; the API works all the same.
        counts: samples by what became of them.
        faults: frames and samples that devices got wrong, by kind.
        waiting: samples in memory, by what they wait for.
    """

    status: str
    broker: str
    version: str
    site: str
    uptime_s: float
    teachers: dict[str, str]
    counts: dict[str, int]
    faults: dict[str, int]
    waiting: dict[str, int] = Field(default_factory=dict)


class DeviceView(Resource):
    """A device as it last described itself."""

    name: str
    online: bool
    agent_version: str
    first_seen: datetime
    last_seen: datetime
    tasks: dict[str, TaskState]
    telemetry: Telemetry | None


class DeviceList(Resource):
    """Devices by name; `next` is the cursor of the following page, if there is one."""

    items: list[DeviceView]
    next: str | None


class DeviceQuery(Resource):
    """A page of devices."""

    cursor: Annotated[str, Field(max_length=128)] | None = None
    limit: Limit = 100


class ModelView(Resource):
    """A bundle in the registry.

    Attributes:
        origin: `upload`, `wrapped`, or `job:<id>`.
        shippable: false when it did not pass its gate.
    """

    task: str
    version: str
    sha256: str
    size_bytes: int
    parent: str | None
    origin: str
    shippable: bool
    created_at: datetime
    metrics: dict[str, float]


class ModelList(Resource):
    """Bundles, newest first."""

    items: list[ModelView]


class ModelDetail(ModelView):
    """A bundle with its manifest."""

    manifest: Manifest


class ModelFilter(Resource):
    """Which bundles are meant."""

    task: Name | None = None


class DeploymentRequest(Resource):
    """A bundle and where it should run: the devices named, or all that run its task."""

    task: Name
    version: Version
    devices: Annotated[tuple[Name, ...], Field(max_length=10_000)] = ()
    all: bool = False

    @model_validator(mode="after")
    def _one_of_both(self) -> DeploymentRequest:
        if self.all == bool(self.devices):
            raise ValueError("name devices, or say all, one of both")
        return self


class DeploymentView(Resource):
    """One bundle on its way to one device; `state` is pending, activated, failed or superseded."""

    id: int
    device: str
    task: str
    version: str
    sha256: str
    revision: int
    state: str
    failure: str
    message: str
    seconds: float | None
    created_at: datetime
    finished_at: datetime | None


class DeploymentList(Resource):
    """Deployments, newest first."""

    items: list[DeploymentView]


class DeploymentQuery(Resource):
    """Which deployments are meant."""

    task: Name | None = None
    device: Name | None = None
    version: Version | None = None
    limit: Limit = 1_000


class JobRequest(Resource):
    """Train a new student of a task now."""

    task: Name
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None


class JobView(Resource):
    """A training job; `state` is queued, running, succeeded, rejected (by its gate), failed or cancelled.

    Attributes:
        trigger, reason: what started it: manual, samples, schedule, drift or agreement; and in words.
        seconds: how long it has trained, over all attempts.
        instance: the replica that ran it last; its log lies there.
        progress: the newest report of each stage: done, total, message.
        report: what the run found, its gate's decision among it.
        version: the candidate's, once it is in the registry.
    """

    id: str
    task: str
    state: str
    trigger: str
    reason: str
    seed: int
    attempts: int
    seconds: float
    instance: str
    samples: int
    progress: dict[str, Any]
    report: dict[str, JsonValue] | None
    version: str | None
    message: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class JobList(Resource):
    """Jobs, newest first."""

    items: list[JobView]


class JobQuery(Resource):
    """Which jobs are meant."""

    task: Name | None = None
    limit: Limit = 100


class JobLogQuery(Resource):
    """Which part of a job's log is meant.

    Attributes:
        tail: the last so many lines; without it and `after`, 200.
        after: what was written from this byte on, the `next` of the answer before.
        wait_s: with `after`, wait so long for something new.
    """

    tail: Annotated[int, Field(ge=0, le=10_000)] | None = None
    after: Annotated[int, Field(ge=0)] | None = None
    wait_s: Annotated[float, Field(ge=0, le=30)] = 0.0

    @model_validator(mode="after")
    def _one_of_both(self) -> JobLogQuery:
        if self.tail is not None and self.after is not None:
            raise ValueError("give tail or after, not both")
        return self


class JobLog(Resource):
    """Some of a job's log.

    Attributes:
        next: ask for `after` this to go on.
        ended: the job has ended and this is the last of it.
    """

    text: str
    next: int
    ended: bool


class TriggerQuery(Resource):
    """Whose triggers are meant."""

    task: Name | None = None


class TriggerView(Resource):
    """How a task's triggers stand.

    Attributes:
        standing: `due`; `held`, something holds a job back that is due; or `idle`.
        trigger: what asks for a job: samples, schedule, drift or agreement.
        reason: in words.
        until: when the cool-down ends that holds it back.
        new_samples: with an answer since the last job.
        trained_s: seconds of training in the last 24 hours.
    """

    task: str
    standing: str
    trigger: str | None
    reason: str
    until: datetime | None
    new_samples: int
    trained_s: float


class TriggerList(Resource):
    """Each task's triggers."""

    items: list[TriggerView]
