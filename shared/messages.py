"""The wire messages of both sides: frozen, versioned, unknown fields refused.

A frame is one CBOR map. `encode` and `decode` carry every message but the sample, which adds its raw tensor beside the
header (`encode_sample`, `decode_sample`). Ages and deadlines travel as durations: a device may have no clock.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, Self, TypeVar
from uuid import UUID

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared.codec import MAX_FRAME_BYTES, Array, encode_array
from shared.codec import decode as decode_cbor
from shared.codec import encode as encode_cbor
from shared.errors import MalformedFrame, UnknownSchema
from shared.topics import NAME_PATTERN

SCHEMA_VERSION = 1

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Version = Annotated[str, Field(pattern=NAME_PATTERN)]
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Text = Annotated[str, Field(max_length=2_000)]


class Action(StrEnum):
    """What the policy does with a sample."""

    KEEP = "keep"
    OFFLOAD = "offload"
    DEFER = "defer"
    DROP = "drop"


class Reason(StrEnum):
    """Why the policy does it."""

    CONFIDENT = "confident"
    HARD = "hard"
    INVALID_OUTPUT = "invalid_output"
    FLICKER = "flicker"
    EMPTY = "empty"
    AUDIT = "audit"
    PRIVATE = "private"
    WITHHELD = "withheld"
    DUPLICATE = "duplicate"
    BUDGET = "budget"
    PRESSURE = "pressure"
    SPOOL_FULL = "spool_full"


class Message(BaseModel):
    """Base of everything on the wire."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[1] = 1


class SampleHeader(Message):
    """What goes up with a sample's tensor.

    Attributes:
        seq: the device's own count of its samples of this task, for order.
        prediction: index of the edge's label.
        hardness: the edge's score, in [0, 1] for the default score.
        inclusion_probability: chance that a sample like this one is sent: 1 when it was hard, the audit fraction when
            it was drawn at random. Its inverse weighs the sample in estimates (Horvitz and Thompson 1952).
        age_ms: time from the answer on the device to this transmission.
        deadline_ms: how much longer somebody waits for the verdict; None when nobody does.
        training_use: False: answer it, but neither store its tensor nor train on it.
    """

    sample_id: UUID
    task: Name
    seq: Count
    bundle_version: Version
    prediction: Count
    hardness: float
    reason: Reason
    inclusion_probability: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    age_ms: Count = 0
    deadline_ms: Count | None = None
    training_use: bool = True


class Verdict(Message):
    """The teacher's answer; for the device it is also the receipt.

    Attributes:
        probabilities: the teacher's; without `classes` one a label, in the task's order.
        classes: the labels that `probabilities` belong to, the most probable first; empty: all labels.
        temperature: what the teacher's logits were divided by before the softmax.
        teacher: the teacher's version.
        latency_ms: from the sample's arrival at the service to this verdict.
    """

    sample_id: UUID
    task: Name
    prediction: Count
    probabilities: tuple[Fraction, ...]
    classes: tuple[Count, ...] = ()
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    teacher: Version
    latency_ms: Annotated[float, Field(ge=0.0)]

    @model_validator(mode="after")
    def _each_class_has_a_probability(self) -> Self:
        if self.classes and len(self.classes) != len(self.probabilities):
            raise ValueError(f"{len(self.probabilities)} probabilities for {len(self.classes)} classes")
        return self

    @property
    def confidence(self) -> float:
        """The probability of the teacher's answer; 0 where it was not sent."""
        known = dict(zip(self.classes or range(len(self.probabilities)), self.probabilities, strict=True))
        return known.get(self.prediction, 0.0)


class Refusal(Message):
    """One sample or report that the cloud will not take, ever: the device need not send it again."""

    message_id: UUID
    reason: Text


class Receipt(Message):
    """The cloud has these, durably, or refuses them for good; either way the device may let go."""

    accepted: tuple[UUID, ...] = ()
    refused: tuple[Refusal, ...] = ()


class TaskState(Message):
    """What a device runs for one task."""

    bundle_version: Version
    bundle_sha256: str
    previous_version: Version | None = None


class DeviceState(Message):
    """Retained: whether the device is there and what it runs. `online=False` is the last will."""

    online: bool
    agent_version: Text = ""
    tasks: dict[Name, TaskState] = Field(default_factory=dict)


class TaskCounts(Message):
    """Counts of one task since the agent's first start on this device.

    Attributes:
        inferences: samples asked, those that ended in an error included.
        kept, offloaded, deferred, dropped: what became of them; a deferred one goes up when the device has it easier.
        audits: of those that went up, the ones drawn at random.
        duplicates, withheld, over_budget: hard ones that were kept: like one that went up lately; because the
            redaction hook said so; because the budget was spent.
        verdicts, agreed: answers that came back, and those that said what the device had said.
        skipped: samples of the sources that were not taken, to do with less power.
        overrun: samples of the sources that were dropped because the agent was slow.
        waited: samples of the sources that had to wait because the agent was slow.
    """

    inferences: Count = 0
    errors: Count = 0
    kept: Count = 0
    offloaded: Count = 0
    deferred: Count = 0
    audits: Count = 0
    dropped: Count = 0
    duplicates: Count = 0
    withheld: Count = 0
    over_budget: Count = 0
    verdicts: Count = 0
    agreed: Count = 0
    skipped: Count = 0
    overrun: Count = 0
    waited: Count = 0


class LedgerBytes(Message):
    """Payload bytes by purpose since the agent's first start on this device.

    Attributes:
        samples: each transmission; verdicts: receipts, too; updates: wishes and bundles.
        telemetry: states and reports, too.
        outcomes: what the device tells others than the cloud: an MQTT topic, a webhook, Home Assistant.
    """

    samples: Count = 0
    verdicts: Count = 0
    updates: Count = 0
    telemetry: Count = 0
    outcomes: Count = 0


class SpoolState(Message):
    """What waits on the device, and what it had to give up."""

    items: Count = 0
    bytes: Count = 0
    evicted: dict[str, Count] = Field(default_factory=dict)
    refused: Count = 0


class BudgetState(Message):
    """How a task's budget stands, over its last samples; None: not known yet, or no such goal.

    Attributes:
        threshold: the score from which a sample is hard now.
        offload: share that went up or waits to, audits included.
        agreement: share of the device's own answers and of those corrected in time that the teacher would give,
            estimated from the audits; `agreement_low` and `agreement_high`: its 95 % interval (Wilson 1927).
        goal_met: False: the goal is out of reach within the limits.
        would_need: the share that would have to go up to meet the goal.
    """

    threshold: float | None = None
    offload: Fraction | None = None
    agreement: Fraction | None = None
    agreement_low: Fraction | None = None
    agreement_high: Fraction | None = None
    goal_met: bool | None = None
    would_need: Fraction | None = None


class Conditions(Message):
    """What the device's sensors say; None: it has no such sensor.

    Attributes:
        battery: charge in [0, 1]; `charging`: on mains.
        temperature_c: of the hottest sensor.
        cpu, memory, disk: share in use by everybody.
        round_trip_s: from a publish to the broker's acknowledgement, smoothed.
        metered: bytes cost money.
        measures: what is done to use less, as the policy names it.
    """

    battery: Fraction | None = None
    charging: bool | None = None
    temperature_c: float | None = None
    cpu: Fraction | None = None
    memory: Fraction | None = None
    disk: Fraction | None = None
    round_trip_s: Annotated[float, Field(ge=0.0)] | None = None
    metered: bool = False
    measures: tuple[Name, ...] = ()


class Telemetry(Message):
    """A device's regular report, QoS 0.

    Attributes:
        bytes_today: payload bytes of the device's running day, which its daily cap counts.
    """

    seq: Count
    uptime_s: Annotated[float, Field(ge=0.0)]
    tasks: dict[Name, TaskCounts]
    ledger: LedgerBytes
    spool: SpoolState
    budgets: dict[Name, BudgetState] = Field(default_factory=dict)
    conditions: Conditions = Conditions()
    bytes_today: Count = 0


class BundleReference(Message):
    """Where a device gets a bundle and how it knows it has the right bytes."""

    version: Version
    url: Annotated[str, Field(max_length=2_000, pattern=r"^https?://")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Field(gt=0)]


class Target(Message):
    """What one task of a device should run."""

    bundle: BundleReference


class Desired(Message):
    """Retained: what the cloud wants of a device, task by task."""

    revision: Count
    tasks: dict[Name, Target]


class UpdateOutcome(StrEnum):
    """How an update ended on the device."""

    ACTIVATED = "activated"
    FAILED = "failed"


class UpdateFailure(StrEnum):
    """Why an update failed; the device keeps running what it ran."""

    NONE = "none"
    REFUSED = "refused"
    DOWNLOAD = "download"
    MISMATCH = "mismatch"
    SELF_TEST = "self_test"
    STORAGE = "storage"
    INTERNAL = "internal"


class Report(Message):
    """The end of an update. The device repeats it, with the same id, until a receipt names it."""

    report_id: UUID
    task: Name
    version: Version
    bundle_sha256: str
    from_version: Version
    outcome: UpdateOutcome
    failure: UpdateFailure = UpdateFailure.NONE
    message: Text = ""
    seconds: Annotated[float, Field(ge=0.0)] = 0.0


M = TypeVar("M", bound=Message)

# A sample's frame is {"header": {…}, "tensor": …}: the head of a map of two (RFC 8949, 3.1), and its keys.
_BEFORE_HEADER = b"\xa2" + encode_cbor("header")
_BEFORE_TENSOR = encode_cbor("tensor")


def encode(message: Message) -> bytes:
    """The message as one frame."""
    return encode_cbor(message.model_dump())


def decode(kind: type[M], frame: bytes, *, max_bytes: int = MAX_FRAME_BYTES) -> M:
    """A message of the given kind.

    Raises:
        OversizeFrame, MalformedFrame: see `shared.codec.decode`; also when a field is missing, wrong or unknown.
        UnknownSchema: the sender speaks another version of the contract.
    """
    return _validated(kind, decode_cbor(frame, max_bytes=max_bytes))


def encode_sample(
    header: SampleHeader, tensor: Array, *, age_ms: int | None = None, deadline_ms: int | None = None
) -> bytes:
    """A sample's header and raw tensor as one frame.

    Args:
        age_ms, deadline_ms: of this transmission, in the header's place; None: as the header says.
    """
    # Not `model_dump` of a copy, and the tensor's bytes copied once: somebody may wait for this sample.
    fields = header.__dict__.copy()
    if age_ms is not None:
        fields["age_ms"] = age_ms
    if deadline_ms is not None:
        fields["deadline_ms"] = deadline_ms
    first, elements = encode_array(tensor)
    return b"".join((_BEFORE_HEADER, encode_cbor(fields), _BEFORE_TENSOR, first, elements))


def decode_sample(frame: bytes, *, max_bytes: int = MAX_FRAME_BYTES) -> tuple[SampleHeader, Array]:
    """A sample's header and its tensor, a read-only view; raises like `decode`."""
    value = decode_cbor(frame, max_bytes=max_bytes)
    if not (isinstance(value, dict) and value.keys() == {"header", "tensor"}):
        raise MalformedFrame("a sample frame must be a map of 'header' and 'tensor'")
    tensor = value["tensor"]
    if not isinstance(tensor, np.ndarray):
        raise MalformedFrame("a sample's tensor must be a typed array")
    return _validated(SampleHeader, value["header"]), tensor


def _validated(kind: type[M], value: Any) -> M:
    if not isinstance(value, dict):
        raise MalformedFrame(f"a {kind.__name__} frame must be a map, not {type(value).__name__}")
    version = value.get("schema_version")
    if type(version) is not int:
        raise MalformedFrame(f"a {kind.__name__} frame without a number as its schema_version")
    if version != SCHEMA_VERSION:
        raise UnknownSchema(
            f"a {kind.__name__} of schema version {version}; this release speaks {SCHEMA_VERSION}: update the older"
        )
    try:
        return kind.model_validate(value)
    except ValidationError as err:
        first = err.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the frame"
        raise MalformedFrame(f"{kind.__name__}: {where}: {first['msg']}") from err
