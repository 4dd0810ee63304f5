"""The tables: devices, samples and what was deleted of them, bundles, deployments, jobs and incidents."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    String,
    TypeDecorator,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class UtcTime(TypeDecorator[datetime]):
    """An aware UTC time; SQLite forgets the zone and gets it back here."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store as UTC."""
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Read as UTC."""
        return value.replace(tzinfo=UTC) if value and value.tzinfo is None else value


class DeploymentState(StrEnum):
    """Where one bundle's way to one device stands."""

    PENDING = "pending"
    ACTIVATED = "activated"
    FAILED = "failed"
    SUPERSEDED = "superseded"


class JobState(StrEnum):
    """Where a training job stands; `rejected` ran to its end and did not pass the gate."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Table(DeclarativeBase):
    """Declares the tables."""

    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy's way
        datetime: UtcTime,
        dict[str, Any]: JSON,
        # SQLite numbers rows by itself only where the type is INTEGER, which holds 64 bits there.
        int: BigInteger().with_variant(Integer, "sqlite"),
        str: String(2_000),
    }


class Device(Table):
    """A device as it last described itself.

    Attributes:
        tasks: the device state's map of task to bundle version, hash and previous version.
        telemetry: its last telemetry message, as sent.
    """

    __tablename__ = "devices"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    online: Mapped[bool] = mapped_column(default=False)
    agent_version: Mapped[str] = mapped_column(default="")
    tasks: Mapped[dict[str, Any]] = mapped_column(default=dict)
    telemetry: Mapped[dict[str, Any] | None]
    first_seen: Mapped[datetime]
    last_seen: Mapped[datetime]


def _partial(name: str, *columns: str, where: str) -> Index:
    """An index over the rows that fulfil a condition only."""
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


class Sample(Table):
    """A stored sample and, once there is one, the teacher's verdict on it and a human's label.

    Attributes:
        number: the store's own order; later commits have larger ones.
        blob: sha256 of the payload, which is the tensor's CBOR typed array; a duplicate's is its first one's.
        pack, pack_start, payload_bytes: where in the blob store the payload lies, see `cloud_service.storage.packs`;
            0 bytes: it is the whole object. No pack: a replica of the first release stored it as object `blob`.
        label: the teacher's.
        probabilities: the teacher's, float32 little-endian.
        failure: why the teacher could not answer.
        embedding: the teacher's, float16 little-endian, of length 1.
        human_label: wins over the teacher's wherever one of the two counts.
        duplicates: how many later samples were like this one.
        duplicate_of: id of the first sample like this one, whose payload stands for both.
        own_pack: the pack that a duplicate's own payload was put into, where it may lie until the pack is rewritten.
    """

    __tablename__ = "samples"
    __table_args__ = (
        Index("samples_by_task", "task", "number"),
        Index("samples_by_device", "device", "number"),
        Index("samples_by_pack", "pack"),
        _partial("samples_firsts", "blob", "device", where="duplicate_of IS NULL"),
        _partial("samples_unanswered", "number", where="label IS NULL AND failure IS NULL"),
        _partial("samples_audits", "task", "stored_at", where="reason = 'audit'"),
        _partial("samples_duplicates", "duplicate_of", where="duplicate_of IS NOT NULL"),
    )

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    id: Mapped[UUID] = mapped_column(Uuid, unique=True)
    device: Mapped[str] = mapped_column(String(64))
    task: Mapped[str] = mapped_column(String(64))
    seq: Mapped[int]
    bundle_version: Mapped[str] = mapped_column(String(64))
    prediction: Mapped[int]
    hardness: Mapped[float]
    reason: Mapped[str] = mapped_column(String(32))
    inclusion_probability: Mapped[float]
    stored_at: Mapped[datetime]
    blob: Mapped[str] = mapped_column(String(64))
    pack: Mapped[str] = mapped_column(String(64))
    pack_start: Mapped[int] = mapped_column(server_default="0")
    payload_bytes: Mapped[int] = mapped_column(server_default="0")
    label: Mapped[int | None]
    probabilities: Mapped[bytes | None] = mapped_column(LargeBinary)
    teacher: Mapped[str | None] = mapped_column(String(64))
    temperature: Mapped[float] = mapped_column(server_default="1")
    answered_at: Mapped[datetime | None]
    failure: Mapped[str | None]
    embedding: Mapped[bytes | None] = mapped_column(LargeBinary)
    human_label: Mapped[int | None]
    labelled_by: Mapped[str | None] = mapped_column(String(64))
    labelled_at: Mapped[datetime | None]
    duplicates: Mapped[int] = mapped_column(server_default="0")
    duplicate_of: Mapped[UUID | None] = mapped_column(Uuid)
    own_pack: Mapped[str | None] = mapped_column(String(64))


class Tombstone(Table):
    """A device's samples of one task were deleted for good.

    Attributes:
        seq_until: the largest count of the device's that was stored then.
        at: when; see `cloud_service.storage.intake` for what is refused since.
    """

    __tablename__ = "tombstones"
    __table_args__ = (Index("tombstones_by_device", "device", "task"),)

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    device: Mapped[str] = mapped_column(String(64))
    task: Mapped[str] = mapped_column(String(64))
    seq_until: Mapped[int]
    at: Mapped[datetime]


class PurgedSample(Table):
    """A sample that somebody had deleted, by its id alone: a redelivery does not bring it back."""

    __tablename__ = "purged_samples"

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    device: Mapped[str] = mapped_column(String(64))
    at: Mapped[datetime]


class WornPack(Table):
    """A pack of which some payloads, or all, are needed no more; see `cloud_service.storage.payloads` for its way out.

    Attributes:
        dead_bytes: of payloads that no row needs; 0 and not due: it is being filled, and no row points there yet.
        due: it is to be deleted, after what is still needed was put elsewhere.
        deleted: no row points there, nor ever will; the mark goes once the blob store has deleted it.
    """

    __tablename__ = "worn_packs"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    at: Mapped[datetime]
    dead_bytes: Mapped[int]
    due: Mapped[bool]
    deleted: Mapped[bool] = mapped_column(default=False)


class Bundle(Table):
    """A bundle in the registry; the file lies at bundles/<sha256>.bundle.

    Attributes:
        origin: `upload`, `wrapped`, or `job:<id>`.
        shippable: False when it did not pass the gate: kept and shown, never deployed.
    """

    __tablename__ = "bundles"
    __table_args__ = (UniqueConstraint("task", "version"),)

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    task: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    size_bytes: Mapped[int]
    parent: Mapped[str | None] = mapped_column(String(64))
    manifest: Mapped[dict[str, Any]]
    origin: Mapped[str] = mapped_column(String(64))
    shippable: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[datetime]


class Deployment(Table):
    """One bundle on its way to one device; a device's newest one of a task is what it should run."""

    __tablename__ = "deployments"
    __table_args__ = (Index("deployments_by_device", "device", "task", "number"),)

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    device: Mapped[str] = mapped_column(String(64))
    task: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int]
    revision: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    failure: Mapped[str] = mapped_column(String(32), default="")
    message: Mapped[str] = mapped_column(default="")
    seconds: Mapped[float | None]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class Job(Table):
    """A training job.

    Attributes:
        last_sample: number of the newest sample it trains on; the next automatic job counts from there.
        progress: the pipeline's last line for each stage.
        report: what the pipeline found, the gate's decision among it.
        reason: why it was started, in words.
        seconds: how long it has trained, over all attempts.
        instance: the replica that ran it last; its folder lies there.
    """

    __tablename__ = "jobs"
    __table_args__ = (Index("jobs_by_task", "task", "number"),)

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(36), unique=True)
    task: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    trigger: Mapped[str] = mapped_column(String(16))
    seed: Mapped[int]
    attempts: Mapped[int] = mapped_column(default=0)
    samples: Mapped[int] = mapped_column(default=0)
    last_sample: Mapped[int] = mapped_column(default=0)
    progress: Mapped[dict[str, Any]] = mapped_column(default=dict)
    report: Mapped[dict[str, Any] | None]
    version: Mapped[str | None] = mapped_column(String(64))
    message: Mapped[str] = mapped_column(default="")
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    reason: Mapped[str] = mapped_column(default="", server_default="")
    seconds: Mapped[float] = mapped_column(default=0.0, server_default="0")
    instance: Mapped[str] = mapped_column(String(64), default="", server_default="")


class Incident(Table):
    """Something about a device that somebody should look at, from when to when.

    Attributes:
        open_key: task/device while it is open, so that there is one at a time.
        evidence: what was seen when it began.
    """

    __tablename__ = "incidents"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    task: Mapped[str] = mapped_column(String(64))
    device: Mapped[str] = mapped_column(String(64))
    open_key: Mapped[str | None] = mapped_column(String(129), unique=True)
    sentence: Mapped[str]
    evidence: Mapped[dict[str, Any]]
    opened_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    closed_because: Mapped[str | None]
