"""The edge agent's composition root: read this first.

    source ─► Pipeline (engine → judge → departure) ─► outcome ─► sinks      in the caller's or the source's thread
                         ▲             │ hard, or drawn for an audit
               Monitor ──┘             ▼
      (battery, heat, link)          Spool ─► Uplink ══ MQTT ══► cloud       in the agent's own thread, an event loop
                                                │ verdict ─► correction
                                                └ desired ─► Updater ─► Slots ─► Pipeline.swap(new engine)

`EdgeAgent` is the same object in a service (`edge-agent run`) and in a program of yours: `open`, `infer`, `close`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

from edge_agent.background import Background, contained, every
from edge_agent.claim import claim
from edge_agent.deciding.pressure import Measure
from edge_agent.device import Device
from edge_agent.errors import AgentClosed, BackgroundDied
from edge_agent.execution.loading import EngineLoader
from edge_agent.execution.quiet import QuietMoment
from edge_agent.host.pulse import Pulse
from edge_agent.host.resources import Sensors
from edge_agent.ledger import Ledger
from edge_agent.monitor import Monitor
from edge_agent.outcomes import Correction, Outcome
from edge_agent.request import Request
from edge_agent.runner import run_sources
from edge_agent.server.app import Server
from edge_agent.settings import AgentSettings
from edge_agent.sinks.context import SinkContext
from edge_agent.sinks.fan_out import open_sinks
from edge_agent.spool.spool import Spool
from edge_agent.task import Common, Task
from edge_agent.updates.dispatch import UpdateDispatcher
from edge_agent.updates.fetch import Fetcher, HttpFetcher
from edge_agent.updates.selftest import self_tester
from edge_agent.updates.updater import Surroundings
from edge_agent.uplink.correlation import Correlation
from edge_agent.uplink.outbox import Outbox
from edge_agent.uplink.pending import Pending
from edge_agent.uplink.uplink import Address, Uplink
from shared.codec import Array
from shared.manifest import Manifest
from shared.messages import Telemetry
from shared.mqtt import Connector, connector

log = logging.getLogger(__name__)

_CLOSE_TIMEOUT_S = 5.0
_BEAT_S = 5.0
# The agent's own thread does nothing that takes so long.
_HANGS_S = 60.0
_NO_SMALL_MODEL = frozenset({Measure.SMALLER_MODEL})


class EdgeAgent:
    """One device's agent. Open it with `open`; everything public may be called from any thread."""

    def __init__(
        self,
        settings: AgentSettings,
        *,
        on_outcome: Callable[[Outcome], None] | None = None,
        on_correction: Callable[[Correction], None] | None = None,
        connect: Connector | None = None,
        fetcher: Fetcher | None = None,
        rng: Random | None = None,
    ) -> None:
        """Build every part; `open` also starts them.

        Args:
            on_outcome: called with each outcome, in the thread that asked.
            on_correction: called with each verdict that came after its sample was answered.
            connect, fetcher, rng: the outside world, for tests.

        Raises:
            StateInUse: another agent runs on the same state folder.
            NoWorkingModel: a task has no model that loads.
            StorageFull: the state folder cannot be written.
        """
        self.settings = settings
        self._closed = self._died = False
        self._stop_run: threading.Event | None = None
        self._pulse = Pulse()
        self._closing = threading.Lock()
        with ExitStack() as parts:
            parts.callback(os.close, claim(settings.state_dir))
            self._build(
                parts,
                on_outcome=on_outcome,
                on_correction=on_correction,
                connect=connect,
                fetcher=fetcher,
                rng=rng or Random(),  # noqa: S311  # no secrets
            )
            self._parts = parts.pop_all()

    def _build(
        self,
        parts: ExitStack,
        *,
        on_outcome: Callable[[Outcome], None] | None,
        on_correction: Callable[[Correction], None] | None,
        connect: Connector | None,
        fetcher: Fetcher | None,
        rng: Random,
    ) -> None:
        settings, state_dir = self.settings, self.settings.state_dir
        self._ledger = Ledger(state_dir / "ledger.json", max_bytes_per_day=settings.ledger.max_bytes_per_day)
        parts.callback(self._ledger.close)
        self._spool = Spool(state_dir / "spool", settings.spool)
        parts.callback(self._spool.close)
        self._device = Device(self._spool, self._ledger)
        surroundings = SinkContext(
            site=settings.site,
            device=settings.device,
            tasks=tuple(settings.tasks),
            broker=settings.broker,
            telemetry=self._device.telemetry,
            telemetry_interval_s=settings.telemetry.interval_s,
            book=self._ledger.book_outcomes,
            rng=rng,
            connect=connector if connect is None else lambda _: connect,
        )
        self._sinks = open_sinks(settings.outcomes, on_outcome, on_correction, surroundings)
        parts.callback(self._sinks.close)
        outbox, correlation = Outbox(state_dir / "outbox"), Correlation()
        parts.callback(Pending(state_dir / "pending", correlation).save)
        self._uplink = Uplink(
            Address(settings.site, settings.device),
            connect=connect or connector(settings.broker),
            broker=settings.broker,
            spool=self._spool,
            outbox=outbox,
            ledger=self._ledger,
            correlation=correlation,
            listener=self._device,
            settings=settings.uplink,
            telemetry_interval_s=settings.telemetry.interval_s,
            send_deferred=self._device.sends_deferred,
            rng=rng,
        )
        load = EngineLoader(settings.execution)
        common = Common(
            spool=self._spool,
            ledger=self._ledger,
            correlation=correlation,
            sink=self._sinks,
            rng=rng,
            load=load,
            updates=settings.updates,
            around_updates=Surroundings(
                outbox,
                self._ledger,
                fetcher or HttpFetcher(),
                rng,
                self._uplink.state_changed,
                self_tester(settings.execution),
            ),
            send_now=self._uplink.send_now,
            wake=self._uplink.wake,
        )
        self._tasks = {
            name: Task(name, task, state_dir / "tasks" / name, common) for name, task in settings.tasks.items()
        }
        self._updates = UpdateDispatcher({name: task.updater for name, task in self._tasks.items()})
        sensors = Sensors(settings.pressure, state_dir)
        self._monitor = Monitor(
            settings.pressure,
            self._tasks.values(),
            look=lambda: sensors.read(link_up=self._uplink.connected, round_trip_s=self._uplink.round_trip_s),
            unavailable=frozenset() if any(task.small_bundle for task in settings.tasks.values()) else _NO_SMALL_MODEL,
            changed=self._uplink.wake,  # what was put off goes up as soon as it may
        )
        self._device.complete(self._tasks, sensors=self._monitor, want=self._updates.want)
        quiet = QuietMoment(
            load,
            {name: task.pipeline for name, task in self._tasks.items()},
            lambda name: self._tasks[name].active_slot(),
        )
        beside = {"monitor": self._monitor.run, "quiet moment": quiet.run}
        if settings.server.enabled:
            server = Server(settings.server, self)
            parts.callback(server.close)
            beside["server"] = server.run
        self._background = Background(
            {
                "uplink": self._uplink.run,
                "updates": self._updates.run,
                "flush": lambda: every(settings.spool.flush_interval_s, self._spool.flush),
                "save": lambda: every(settings.telemetry.save_interval_s, self._save),
                "pulse": lambda: self._pulse.beat("the agent's own thread", every_s=_BEAT_S, within_s=_HANGS_S),
                **self._sinks.tasks(),
                **{name: partial(contained, f"the {name}", run) for name, run in beside.items()},
            },
            died=self._end_run,
        )

    @classmethod
    def open(
        cls,
        settings: AgentSettings | Path | str,
        *,
        overrides: Sequence[str] = (),
        on_outcome: Callable[[Outcome], None] | None = None,
        on_correction: Callable[[Correction], None] | None = None,
    ) -> Self:
        """Read the settings, load the models and start the uplink; returns with every task ready to answer.

        Raises:
            SettingsError: a setting is unknown, missing or impossible.
            StateInUse, NoWorkingModel, StorageFull: see `__init__`.
        """
        if not isinstance(settings, AgentSettings):
            settings = AgentSettings.read(Path(settings), overrides=overrides)
        return cls(settings, on_outcome=on_outcome, on_correction=on_correction).start()

    def start(self) -> Self:
        """Start the uplink and the updates in the agent's own thread."""
        self._background.start()
        for name, task in self._tasks.items():
            log.info("task %s: ready with model %s", name, task.pipeline.engine.manifest.version)
        return self

    def infer(
        self,
        tensor: Array,
        *,
        task: str | None = None,
        deadline: float | None = None,
        reference: int | str | None = None,
    ) -> Outcome:
        """Answer one sample.

        Args:
            tensor: of the task's shape and dtype, without a batch axis.
            task: may be left out where there is only one.
            deadline: seconds to wait for the verdict if the sample is hard; None: as the settings say, 0: not at all.
            reference: yours, to know the sample by in outcomes and corrections.

        Raises:
            SampleError: another shape or dtype.
            UnknownTask: no such task, or none named where there are several.
            ModelUnusable: the model failed while running.
            AgentClosed: after `close`.
        """
        if self._closed:
            raise AgentClosed("this agent was closed; open another")
        return self._device.pipeline(task).infer(Request(tensor, reference=reference, deadline_s=deadline))

    def run(self, stop: threading.Event) -> None:
        """Play every task's sources, each task in a thread of its own, until they end or `stop` is set.

        Where no task has a source, wait for `stop`: the program calls `infer`.

        Raises:
            SettingsError: a source is not there or cannot be read.
            BackgroundDied: the uplink and the updates ended by a fault of their own; start the agent again.
        """
        self._stop_run = stop
        if self._died:
            stop.set()
        run_sources(
            {name: task.pipeline for name, task in self._tasks.items()},
            self.settings.tasks,
            stop,
            counts=self._ledger,
            thin=lambda _task: self._monitor.sampling_factor,
            broker=self.settings.broker,
            client=f"edge-{self.settings.site}-{self.settings.device}",
            pulse=self._pulse,
        )
        if not any(task.sources for task in self.settings.tasks.values()):
            stop.wait()
        if self._died:
            raise BackgroundDied("the uplink and the updates have ended, the log says why: start the agent again")

    def model_version(self, task: str | None = None) -> str:
        """Version of the model that the next sample will meet."""
        return self._device.pipeline(task).engine.manifest.version

    def manifests(self) -> dict[str, Manifest]:
        """What each task's model takes and gives."""
        return {name: task.pipeline.engine.manifest for name, task in self._tasks.items()}

    def telemetry(self) -> Telemetry:
        """Counts, bytes and what waits."""
        return self._device.telemetry()

    def ready(self) -> bool:
        """Whether every task answers."""
        return not self._closed

    def unwell(self) -> str | None:
        """What hangs, in words; None: nothing does. An agent that only waits for samples is well."""
        return "its uplink and updates have ended" if self._died else self._pulse.overdue()

    def wait_until_delivered(self, timeout: float) -> bool:
        """Block until the cloud has named every spooled sample; False when `timeout` seconds passed first."""
        until = time.monotonic() + timeout
        while self._spool.state().items:
            if time.monotonic() >= until:
                return False
            time.sleep(0.02)
        return True

    def close(self) -> None:
        """Say goodbye, save everything and stop, within a few seconds; what was not delivered stays spooled."""
        if self._background.is_current_thread:
            raise RuntimeError("close the agent in another thread than the one that calls on_correction")
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self._background.stop(self._uplink.say_goodbye, timeout_s=_CLOSE_TIMEOUT_S)
        self._save()
        self._parts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _end_run(self) -> None:
        self._died = True
        if self._stop_run is not None:
            self._stop_run.set()

    def _save(self) -> None:
        self._ledger.save()
        for task in self._tasks.values():
            task.save()
