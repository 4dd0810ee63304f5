"""One task of the device, put together: its model and slots, its decisions, its updates."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from edge_agent import redaction
from edge_agent.deciding.policy import Circumstances
from edge_agent.departure import Departure
from edge_agent.execution.loading import EngineLoader
from edge_agent.judge import Judge
from edge_agent.ledger import Ledger
from edge_agent.outcomes import Sink
from edge_agent.pipeline import Pipeline
from edge_agent.settings import TaskSettings, UpdateSettings
from edge_agent.sinks.order import InOrder
from edge_agent.small_model import SmallModel
from edge_agent.spool.spool import Spool
from edge_agent.updates.slots import Slots
from edge_agent.updates.updater import Surroundings, Updater
from edge_agent.uplink.correlation import Correlation
from shared import atomic
from shared.codec import Array
from shared.errors import StorageFull
from shared.messages import BudgetState, SampleHeader, TaskState

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Common:
    """What all tasks of a device share.

    Attributes:
        send_now: sends a spooled sample at once, in this thread; False: it could not.
        wake: tells the uplink that something was spooled.
    """

    spool: Spool
    ledger: Ledger
    correlation: Correlation
    sink: Sink
    rng: Random
    load: EngineLoader
    updates: UpdateSettings
    around_updates: Surroundings
    send_now: Callable[[SampleHeader, Array], bool]
    wake: Callable[[], None]


class Task:
    """See the module; `pipeline` answers, `updater` brings it better models."""

    def __init__(self, name: str, settings: TaskSettings, folder: Path, common: Common) -> None:
        """Load the task's model.

        Raises:
            NoWorkingModel: none loads.
            SettingsError: the redaction hook cannot be used.
            StorageFull: the state folder cannot be written.
        """
        self.settings = settings
        self._slots = Slots(folder, common.load)
        self._budget_file = folder / "budget.json"
        self._saved = ""
        engine = self._slots.open(settings.bundle)
        sink = InOrder(common.sink)
        self._judge = Judge(settings, engine.manifest, rng=common.rng)
        self._restore()
        departure = Departure(
            redaction=redaction.load(settings.redact),
            spool=common.spool,
            correlation=common.correlation,
            sink=sink,
            send_now=common.send_now,
            wake=common.wake,
        )
        self.pipeline = Pipeline(
            name,
            settings,
            engine,
            judge=self._judge,
            departure=departure,
            spool=common.spool,
            ledger=common.ledger,
            correlation=common.correlation,
            sink=sink,
        )
        self._small = SmallModel(self.pipeline, settings.small_bundle, folder / "small", load=common.load)
        self.updater = Updater(
            self.pipeline, self._slots, folder, settings=common.updates, around=common.around_updates
        )

    def under(self, circumstances: Circumstances) -> None:
        """Decide under these circumstances from now on."""
        self._judge.under(circumstances)

    def use_small_model(self, wanted: bool) -> None:  # noqa: FBT001  # see `monitor.Adapts`
        """Let the smaller model answer, or the task's own again."""
        if wanted:
            self._small.use()
        else:
            self._small.give_way()

    def active_slot(self) -> Path | None:
        """The folder of the model that answers; None: no slot is active."""
        pointer = self._slots.pointer()
        return self._slots.path(pointer.slot) if pointer else None

    def state(self) -> TaskState:
        """What the task runs."""
        pointer, engine = self._slots.pointer(), self.pipeline.engine
        previous = pointer.previous.version if pointer and pointer.previous else None
        return TaskState(bundle_version=engine.manifest.version, bundle_sha256=engine.sha256, previous_version=previous)

    def budget(self) -> BudgetState:
        """How the task's budget stands."""
        return self._judge.budget()

    def save(self) -> None:
        """Write down what was steered, if it changed; a disk that refuses costs it at the next restart only."""
        saved = self._judge.saved()
        text = json.dumps(saved, sort_keys=True)
        if text == self._saved:
            return
        try:
            atomic.write_json(self._budget_file, saved)
        except (OSError, StorageFull) as err:
            log.debug("the budget's state is not saved: %s", err)
            return
        self._saved = text

    def _restore(self) -> None:
        try:
            restored = self._judge.restore(json.loads(self._budget_file.read_bytes()))
        except FileNotFoundError:
            return
        except (OSError, ValueError):
            restored = False
        if not restored:
            log.warning("the saved budget %s cannot be read: steering starts anew", self._budget_file)
