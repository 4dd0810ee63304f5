"""The agent's settings: `agent.toml` < environment (`EDGE_AGENT__…`) < `--set`; paths are relative to the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from edge_agent.policy import OffloadMode
from shared.messages import Name
from shared.mqtt import BrokerSettings
from shared.settings import Section, Settings


class ReplaySettings(Section):
    """Samples from a file, at a steady rate; the source waits for a slow consumer and drops nothing.

    Attributes:
        kind: `"replay"`.
        path: `.npz` with `x` [N, *shape] and, optionally, `reference` [N] integers that ride into the outcomes.
        rate_hz: samples a second; 0: as fast as they are taken.
        repeat: start over at the end, for ever.
        training_use: overrides the task's.
        audit_fraction: overrides the task's.
    """

    kind: Literal["replay"]
    path: Path
    rate_hz: Annotated[float, Field(ge=0)] = 0.0
    repeat: bool = False
    training_use: bool | None = None
    audit_fraction: Annotated[float, Field(ge=0, le=1)] | None = None


class DirectorySettings(Section):
    """`.npy` files that appear in a folder, oldest first; each moves to `done/`, or to `failed/` when it is no array.

    Attributes:
        kind: `"directory"`.
        path: the folder; `done/` and `failed/` are made in it.
        training_use: overrides the task's.
        audit_fraction: overrides the task's.
        poll_s: seconds between looks at the folder.
        keep: how many files `done/` and `failed/` keep each; the oldest are deleted.
    """

    kind: Literal["directory"]
    path: Path
    poll_s: Annotated[float, Field(gt=0)] = 0.5
    keep: Annotated[int, Field(ge=0)] = 1000
    training_use: bool | None = None
    audit_fraction: Annotated[float, Field(ge=0, le=1)] | None = None


SourceSettings = Annotated[ReplaySettings | DirectorySettings, Field(discriminator="kind")]


class TaskSettings(Section):
    """One task of the device.

    Attributes:
        bundle: the factory's bundle file, installed at the first start and the last resort ever after.
        offload: what may leave the device.
        audit_fraction: share of the confident samples sent up at random, so that the cloud can estimate without bias.
        training_use: False: the cloud answers this task's samples but neither keeps nor trains on them.
        deadline_s: how long `infer` waits for the verdict on a hard sample when its caller does not say; 0: not at all.
        sources: played one after the other.
    """

    bundle: Path
    offload: OffloadMode = OffloadMode.HARD_AND_AUDIT
    audit_fraction: Annotated[float, Field(ge=0, le=1)] = 0.02
    training_use: bool = True
    deadline_s: Annotated[float, Field(ge=0)] = 0.0
    sources: tuple[SourceSettings, ...] = ()


class SpoolSettings(Section):
    """What the device keeps until the cloud has it.

    Attributes:
        max_bytes: of samples that wait, 600 bytes of bookkeeping each included; past it the least valuable go first.
        max_age_s: older samples are given up.
        flush_interval_s: what a power cut may cost at most; a killed process costs nothing.
        resend_after_s: without a receipt, a sample is sent again after this, doubling up to `resend_cap_s`.
        resend_cap_s: the longest of these waits.
        max_unanswered: samples sent and not yet named by a receipt or verdict.
    """

    max_bytes: Annotated[int, Field(ge=4096)] = 256 * 1024**2
    max_age_s: Annotated[float, Field(gt=0)] = 30 * 86_400.0
    flush_interval_s: Annotated[float, Field(gt=0)] = 1.0
    resend_after_s: Annotated[float, Field(gt=0)] = 30.0
    resend_cap_s: Annotated[float, Field(gt=0)] = 3600.0
    max_unanswered: Annotated[int, Field(ge=1)] = 256


class OutcomeSettings(Section):
    """Where outcomes go, as JSON lines.

    Attributes:
        path: None: nowhere; "-": standard output.
        max_bytes: the file is moved to `<path>.1` when it reaches this.
    """

    path: Path | None = None
    max_bytes: Annotated[int, Field(ge=65_536)] = 64 * 1024**2


class TelemetrySettings(Section):
    """Attributes:
    interval_s: seconds between two reports to the cloud.
    save_interval_s: seconds between two saves of the counts on the device; a kill loses at most this much of them.
    """

    interval_s: Annotated[float, Field(gt=0)] = 30.0
    save_interval_s: Annotated[float, Field(gt=0)] = 60.0


class UpdateSettings(Section):
    """Attributes:
    max_bytes: a larger bundle is refused unseen.
    download_timeout_s: for one try of the whole transfer; the next try goes on where it ended.
    download_tries: before the update is reported as failed.
    self_test_timeout_s: a candidate that takes longer is refused.
    """

    max_bytes: Annotated[int, Field(gt=0)] = 256 * 1024**2
    download_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    download_tries: Annotated[int, Field(ge=1)] = 8
    self_test_timeout_s: Annotated[float, Field(gt=0)] = 120.0


class AgentSettings(Settings):
    """The root of `agent.toml`.

    Attributes:
        site, device: this device's name within the fleet, and the first parts of its topics.
        state_dir: the folder for models, spool and counts; the agent owns it.
    """

    model_config = SettingsConfigDict(env_prefix="EDGE_AGENT__")

    site: Name
    device: Name
    state_dir: Path
    broker: BrokerSettings = BrokerSettings()
    tasks: Annotated[dict[Name, TaskSettings], Field(min_length=1)]
    spool: SpoolSettings = SpoolSettings()
    outcomes: OutcomeSettings = OutcomeSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    updates: UpdateSettings = UpdateSettings()

    @classmethod
    def read(cls, path: Path, *, overrides: Sequence[str] = ()) -> Self:
        """Load a settings file; its relative paths become relative to its folder.

        Raises:
            SettingsError: see `Settings.load`.
        """
        folder = path.absolute().parent
        settings = cls.load(path, overrides=overrides)
        outcomes = settings.outcomes
        if outcomes.path is not None and str(outcomes.path) != "-":
            outcomes = outcomes.model_copy(update={"path": folder / outcomes.path})
        return settings.model_copy(
            update={
                "state_dir": folder / settings.state_dir,
                "broker": settings.broker.relative_to(folder),
                "outcomes": outcomes,
                "tasks": {name: _relative_to(folder, task) for name, task in settings.tasks.items()},
            }
        )


def _relative_to(folder: Path, task: TaskSettings) -> TaskSettings:
    sources = tuple(source.model_copy(update={"path": folder / source.path}) for source in task.sources)
    return task.model_copy(update={"bundle": folder / task.bundle, "sources": sources})
