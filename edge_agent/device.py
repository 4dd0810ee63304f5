"""The device as the cloud knows it: what it runs, how it does, and who gets what comes down."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from edge_agent.errors import UnknownTask
from edge_agent.ledger import Ledger
from edge_agent.pipeline import Pipeline
from edge_agent.spool.spool import Spool
from shared import __version__
from shared.messages import BudgetState, Conditions, Desired, DeviceState, TaskState, Telemetry, Verdict

log = logging.getLogger(__name__)

# Different task names that a cloud gone wrong can make this device log.
_MAX_SAID = 100


class RunsModels(Protocol):
    """A task, as far as the cloud is told of it."""

    pipeline: Pipeline

    def state(self) -> TaskState: ...

    def budget(self) -> BudgetState: ...


class Sensed(Protocol):
    """What the sensors say, and what follows from it."""

    def conditions(self) -> Conditions: ...

    def sends_deferred(self) -> bool: ...


class Device:
    """Answers what the uplink asks and passes on what it brings (`uplink.Listener`), in the agent's own thread.

    The tasks speak through the uplink and the uplink for this device: so it is there first, and `complete` gives it
    the rest before anything runs.
    """

    def __init__(self, spool: Spool, ledger: Ledger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._spool, self._ledger, self._clock = spool, ledger, clock
        self._began_s = clock()
        self._unknown: set[str] = set()
        self._tasks: Mapping[str, RunsModels] = {}

    def complete(
        self,
        tasks: Mapping[str, RunsModels],
        *,
        sensors: Sensed,
        want: Callable[[Desired], None],
    ) -> None:
        """Its tasks, its sensors, and who takes wishes for other bundles."""
        self._tasks, self._sensors, self._want = tasks, sensors, want

    def pipeline(self, task: str | None) -> Pipeline:
        """A task's pipeline; its name may be left out where there is only one.

        Raises:
            UnknownTask: no such task, or none named where there are several.
        """
        if task is None and len(self._tasks) == 1:
            return next(iter(self._tasks.values())).pipeline
        found = self._tasks.get(task or "")
        if found is None:
            known = ", ".join(self._tasks)
            raise UnknownTask(
                f"name one of this device's tasks by task=…: {known}" + (f" (not {task!r})" if task else "")
            )
        return found.pipeline

    def verdict(self, verdict: Verdict) -> None:
        """A verdict came down."""
        task = self._tasks.get(verdict.task)
        if task is not None:
            task.pipeline.take_verdict(verdict)
            return
        self._spool.acknowledge([verdict.sample_id])  # or it would be sent and answered for ever
        if verdict.task not in self._unknown and len(self._unknown) < _MAX_SAID:
            self._unknown.add(verdict.task)
            log.warning("verdicts for the task %r, which this device does not have, are ignored", verdict.task)

    def desired(self, desired: Desired) -> None:
        """The cloud wants these bundles."""
        self._want(desired)

    def sends_deferred(self) -> bool:
        """Whether samples that can wait may go up now."""
        return self._sensors.sends_deferred()

    def state(self) -> DeviceState:
        """What this device runs."""
        tasks = {name: task.state() for name, task in self._tasks.items()}
        return DeviceState(online=True, agent_version=__version__, tasks=tasks)

    def telemetry(self, *, seq: int = 0) -> Telemetry:
        """Counts, bytes and what waits; `seq` numbers what the cloud is sent, and nothing else."""
        return Telemetry(
            seq=seq,
            uptime_s=self._clock() - self._began_s,
            tasks=self._ledger.counts(),
            ledger=self._ledger.bytes(),
            spool=self._spool.state(),
            budgets={name: task.budget() for name, task in self._tasks.items()},
            conditions=self._sensors.conditions(),
            bytes_today=self._ledger.bytes_today(),
        )
