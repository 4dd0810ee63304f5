"""The agent's settings: `agent.toml` < environment (`EDGE_AGENT__…`) < `--set`; paths are relative to the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field

from edge_agent.deciding.policy import OffloadMode
from edge_agent.deciding.settings import BudgetSettings, DuplicateSettings, PressureSettings, SteadinessSettings
from edge_agent.execution.settings import ExecutionSettings
from edge_agent.server.settings import ServerSettings
from edge_agent.sinks.settings import OutcomeSettings
from edge_agent.sources.settings import SourceSettings
from edge_agent.spool.settings import SpoolSettings
from edge_agent.uplink.settings import UplinkSettings
from shared.messages import Name
from shared.mqtt import BrokerSettings
from shared.settings import Section, Settings, relative_to


class TaskSettings(Section):
    """One task of the device.

    Attributes:
        bundle: the factory's bundle file, installed at the first start and the last resort ever after.
        small_bundle: a lighter model of the same task, used while the device is under pressure.
        offload: what may leave the device.
        redact: `module:function` or `file.py:function` that sees each sample before it is spooled and may change or
            withhold it.
        audit_fraction: share of the confident samples sent up at random, so that the cloud can estimate without bias.
        training_use: False: the cloud answers this task's samples but neither keeps nor trains on them.
        deadline_s: how long `infer` waits for the verdict on a hard sample when its caller does not say; 0: not at all.
        sources_in_turn: play the sources one after the other instead of side by side.
        sources: where the samples come from.
    """

    bundle: Path
    small_bundle: Path | None = None
    offload: OffloadMode = OffloadMode.HARD_AND_AUDIT
    redact: Annotated[str, Field(pattern=r"^([\w.]+|.+\.py):\w+$")] | None = None
    audit_fraction: Annotated[float, Field(ge=0, le=1)] = 0.02
    training_use: bool = True
    deadline_s: Annotated[float, Field(ge=0)] = 0.0
    budget: BudgetSettings = BudgetSettings()
    duplicates: DuplicateSettings = DuplicateSettings()
    steadiness: SteadinessSettings = SteadinessSettings()
    sources_in_turn: bool = False
    sources: tuple[SourceSettings, ...] = ()


class LedgerSettings(Section):
    """Attributes:
    max_bytes_per_day: hard cap of the payload bytes of a day, counted both ways and for every purpose: what does not
        fit waits (samples, downloads) or is left out (telemetry); verdicts, states and reports only count. None: none.
    """

    max_bytes_per_day: Annotated[int, Field(ge=10_000)] | None = None


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

    env_prefix: ClassVar[str] = "EDGE_AGENT__"

    site: Name
    device: Name
    state_dir: Path
    broker: BrokerSettings = BrokerSettings()
    tasks: Annotated[dict[Name, TaskSettings], Field(min_length=1)]
    spool: SpoolSettings = SpoolSettings()
    uplink: UplinkSettings = UplinkSettings()
    outcomes: OutcomeSettings = OutcomeSettings()
    pressure: PressureSettings = PressureSettings()
    ledger: LedgerSettings = LedgerSettings()
    execution: ExecutionSettings = ExecutionSettings()
    server: ServerSettings = ServerSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    updates: UpdateSettings = UpdateSettings()

    @classmethod
    def read(cls, path: Path, *, overrides: Sequence[str] = ()) -> Self:
        """Load a settings file; its relative paths become relative to its folder.

        Raises:
            SettingsError: see `Settings.load`.
        """
        folder = path.absolute().parent
        settings = relative_to(folder, cls.load(path, overrides=overrides))
        return settings.model_copy(update={"tasks": {n: _hook_below(folder, t) for n, t in settings.tasks.items()}})


def _hook_below(folder: Path, task: TaskSettings) -> TaskSettings:
    where, _, function = (task.redact or "").rpartition(":")
    return task.model_copy(update={"redact": f"{folder / where}:{function}"}) if where.endswith(".py") else task
