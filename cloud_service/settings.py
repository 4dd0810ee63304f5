"""Settings of the cloud service: `cloud.toml` < `EDGELOOP__…` < `--set`; paths are relative to the settings file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from cloud_service.admission import Terms
from cloud_service.estimates.settings import EstimatesSettings
from cloud_service.storage.settings import DatabaseSettings, RetentionSettings
from cloud_service.tasks.task import TaskDefinition
from cloud_service.tasks.task_file import read_task_file
from cloud_service.training.settings import JobsSettings
from shared.codec import MAX_FRAME_BYTES
from shared.messages import Name
from shared.mqtt import BrokerSettings
from shared.settings import Section, Settings

Limit = Annotated[int, Field(ge=1)]
# Addresses to listen on that are none to connect to.
_EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104  # refused below unless there is a better one


# The folder of the settings file that is being read, below which a task's `file` lies.
_FOLDER: ContextVar[Path] = ContextVar("folder", default=Path())


class HttpSettings(Section):
    """The management API.

    Attributes:
        host, port: where it listens; port 0: any free one, named in the log.
        token_file: who may use it: a token a line, behind it a name if you like. Left out: whoever reaches it. Open to
            all are /healthz and bundles under their hash. `edgeloop token new` makes tokens.
        public_url: the address under which devices fetch bundles; empty: http://host:port, where that is one.
        max_body_bytes: of a request that is neither a model nor labels.
        max_import_bytes: of labels that come back.
        max_model_bytes: of an uploaded bundle or ONNX file.
        max_export_bytes: of the tensors in an npz; it says how to get the rest. Made below `data_dir`, which needs room
            for twice as much.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    token_file: Path | None = None
    public_url: str = ""
    max_body_bytes: Limit = 1024**2
    max_import_bytes: Limit = 16 * 1024**2
    max_model_bytes: Limit = 512 * 1024**2
    max_export_bytes: Limit = 1024**3

    @model_validator(mode="after")
    def _devices_can_fetch(self) -> Self:
        if not self.public_url and (self.port == 0 or self.host in _EVERYWHERE):
            raise ValueError(
                f"devices cannot fetch bundles from {self.host}:{self.port}: "
                'set public_url to the address they reach, such as "http://cloud.example:8080"'
            )
        return self

    def relative_to(self, folder: Path) -> Self:
        """With a relative token file made relative to this folder."""
        return self if self.token_file is None else self.model_copy(update={"token_file": folder / self.token_file})

    @property
    def base_url(self) -> str:
        return self.public_url or f"http://{self.host}:{self.port}"


class BlobsSettings(Section):
    """Where samples' payloads are kept.

    Attributes:
        url: `file://…`, `s3://…`, `gs://…` or `az://…`; empty: below `data_dir`. Credentials, region and endpoint come
            from the environment (docs/storage.md).
    """

    url: str = ""


class IngestSettings(Section):
    """Limits of what comes in over MQTT.

    Attributes:
        instance: names this replica; its sessions at the broker are found again under it. Left out: a name of its own
            that is kept in `data_dir`, so that replicas need no settings for it.
        max_frame_bytes: a larger frame is refused undecoded.
        session_expiry_s: how long the broker queues for a replica that is away. Meanwhile that one's share of the
            samples waits for it, if the broker is Mosquitto, so a replica that is gone for good delays them so long.
        max_held: samples in memory that are not stored yet (MQTT's receive maximum); the broker keeps the rest.
        max_held_bytes: of these samples, and once more of those that are stored and wait for their verdict.
        max_under_way: samples between their storage and their verdict; what somebody waits for may be as many again.
        batch: samples or verdicts in one commit.
        company_s: how long a sample that nobody waits for waits for others, to be stored in one commit with them; it
            ends when somebody waits for one, or with a whole batch.
        receipt_after_s: a sample whose verdict takes longer is receipted first.
        orphan_after_s: a stored sample that has had no verdict for so long is taken over from a replica that ended.
    """

    instance: Name | None = None
    session_expiry_s: Annotated[int, Field(ge=0)] = 300
    max_frame_bytes: Limit = MAX_FRAME_BYTES
    max_held: Annotated[int, Field(ge=1, le=65_535)] = 1_000
    max_held_bytes: Limit = 64 * 1024**2
    max_under_way: Limit = 256
    batch: Limit = 64
    company_s: Annotated[float, Field(ge=0, le=1)] = 0.05
    receipt_after_s: Annotated[float, Field(ge=0)] = 1.0
    orphan_after_s: Annotated[float, Field(ge=0)] = 60.0


class RolloutMode(StrEnum):
    """What happens with a candidate that passed its gate."""

    MANUAL = "manual"
    AUTO = "auto"


class ServedTask(TaskDefinition):
    """A task as this service serves it.

    Attributes:
        rollout: `auto`: a candidate that passed its gate goes to every device that runs the task; `manual`: somebody
            deploys it.
        verdict_top_k: a verdict names so many of the most probable labels; 0: all.
        retention: what is kept of its samples.
    """

    rollout: RolloutMode = RolloutMode.MANUAL
    verdict_top_k: Annotated[int, Field(ge=0)] = 0
    retention: RetentionSettings = RetentionSettings()

    @property
    def terms(self) -> Terms:
        return Terms(self.input, len(self.labels))

    @property
    def definition(self) -> TaskDefinition:
        """Without what only the service needs, as a training run takes it."""
        return TaskDefinition.model_validate(self.model_dump(exclude={"rollout", "verdict_top_k", "retention"}))


class CloudSettings(Settings):
    """Everything `edgeloop serve` is told.

    Attributes:
        site: whose devices this service serves; the first part of their topics.
        data_dir: database, blobs, bundles and jobs lie below it unless a URL says otherwise.
        drain_s: how long the service answers what is under way after SIGTERM.
    """

    env_prefix: ClassVar[str] = "EDGELOOP__"

    site: Name = "default"
    data_dir: Path = Path("edgeloop-data")
    drain_s: Annotated[float, Field(ge=0)] = 5.0
    broker: BrokerSettings = BrokerSettings()
    http: HttpSettings = HttpSettings()
    database: DatabaseSettings = DatabaseSettings()
    blobs: BlobsSettings = BlobsSettings()
    ingest: IngestSettings = IngestSettings()
    estimates: EstimatesSettings = EstimatesSettings()
    jobs: JobsSettings = JobsSettings()
    tasks: dict[Name, ServedTask] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _name_tasks(cls, values: Any) -> Any:
        """A task's name is its table's: `[tasks.digits]`. With `file`, the table's keys lie over the file's."""
        tasks = values.get("tasks") if isinstance(values, dict) else None
        if not isinstance(tasks, dict):
            return values
        named = {key: _with_its_file(key, task) if isinstance(task, dict) else task for key, task in tasks.items()}
        return {**values, "tasks": named}

    @model_validator(mode="after")
    def _tasks_keep_their_names(self) -> Self:
        wrong = [key for key, task in self.tasks.items() if task.name != key]
        if wrong:
            raise ValueError(
                f"the task in [tasks.{wrong[0]}] is named {self.tasks[wrong[0]].name!r}: leave its name out"
            )
        return self

    @classmethod
    def read(cls, path: Path, *, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Self:
        """Load a settings file; its relative paths become relative to its folder.

        Raises:
            SettingsError: see `Settings.load`.
        """
        folder = path.absolute().parent
        token = _FOLDER.set(folder)
        try:
            settings = cls.load(path, overrides=overrides, environ=environ)
        finally:
            _FOLDER.reset(token)
        tasks = {name: task.below(folder) for name, task in settings.tasks.items()}
        broker = settings.broker.relative_to(folder)
        http = settings.http.relative_to(folder)
        data_dir = folder / settings.data_dir
        return settings.model_copy(update={"data_dir": data_dir, "tasks": tasks, "broker": broker, "http": http})

    @property
    def database_url(self) -> str:
        return self.database.url or f"sqlite+aiosqlite:///{self.data_dir.absolute() / 'edgeloop.db'}"

    @property
    def blobs_url(self) -> str:
        return self.blobs.url or f"file://{self.data_dir.absolute() / 'blobs'}"


def _with_its_file(name: str, table: dict[str, Any]) -> dict[str, Any]:
    """A task's table with its name, over what its `file` says, a whole key at a time."""
    if "file" not in table:
        return {"name": name, **table}
    read = read_task_file(_FOLDER.get() / str(table["file"]))
    own = {key: value for key, value in table.items() if key != "file"}
    return {**read.model_dump(), **own}
