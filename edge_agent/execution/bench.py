"""`edge-agent bench`: how fast and how large the agent is on this device, and how its models run best here.

The numbers come from a second agent on a copy of the models in a temporary folder: nothing is sent, and an agent that
runs meanwhile keeps its state (but both share the processor).
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from edge_agent.agent import EdgeAgent
from edge_agent.deciding.settings import DuplicateSettings
from edge_agent.errors import UnknownTask
from edge_agent.execution import proving, record
from edge_agent.execution.bench_report import BenchReport, Found, Times
from edge_agent.execution.loading import EngineLoader
from edge_agent.execution.record import Key
from edge_agent.execution.settings import ExecutionSettings
from edge_agent.outcomes import Outcome
from edge_agent.server.settings import ServerSettings
from edge_agent.settings import AgentSettings
from edge_agent.sinks.settings import OutcomeSettings
from edge_agent.updates.slots import Slot, Slots
from shared import atomic, bundle, manifest
from shared.codec import Array
from shared.messages import Action

_WARM_UP_RUNS = 20
# A hard sample goes to the disk; so many tell enough.
_MOST_HARD = 300
_MOST_EASY = 100_000
_CHOOSING_TIMEOUT_S = 1800.0


def bench(
    settings: AgentSettings, *, task: str | None, seconds: float, choose: bool = False, against: Path | None = None
) -> BenchReport:
    """Measure one task.

    Args:
        seconds: for the agent; choosing takes `[execution] measure_s` for each candidate instead.
        choose: find out how the model, and the task's small one, run best here, and keep it.
        against: another bundle file to measure beside them.

    Raises:
        UnknownTask: no such task, or none named where there are several.
        BundleError, NoWorkingModel: there is no model that loads.
        StorageFull: the disk takes no more.
    """
    name = _task(settings, task)
    with tempfile.TemporaryDirectory(prefix="edge-agent-bench-") as folder:
        there, copied = settings.state_dir / "tasks" / name, Path(folder) / "tasks" / name
        if there.is_dir():
            shutil.copytree(there, copied, ignore=shutil.ignore_patterns("*.download"))
        slot = _active(Slots(copied), settings.tasks[name].bundle)
        found, kept = [], False
        if choose:
            found.append(_find_out("the task's bundle", slot, settings.execution))
            kept = _keep(record.file_for(slot), there)
        small = settings.tasks[name].small_bundle if choose else None
        for what, file in (("the small bundle", small), ("the other bundle", against)):
            if file is not None:
                other = Path(folder) / what / "a"
                bundle.unpack(file, other)
                found.append(_find_out(what, other, settings.execution))
        return _of_agent(settings, name, Path(folder), slot, seconds=seconds, found=found, kept=kept)


def memory_mb() -> tuple[float | None, float | None]:
    """Resident and proportional memory of this process, MB; None where the kernel does not say."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return None, None
    sizes = {name.rstrip(":"): int(size) / 1024 for name, size, *_ in (line.split() for line in lines)}
    return sizes.get("Rss"), sizes.get("Pss")


def _task(settings: AgentSettings, task: str | None) -> str:
    if task is None and len(settings.tasks) == 1:
        return next(iter(settings.tasks))
    if task is None or task not in settings.tasks:
        raise UnknownTask(f"name one of this device's tasks with --task: {', '.join(settings.tasks)}")
    return task


def _active(slots: Slots, factory: Path) -> Path:
    """The active slot; where there is none yet, the factory's bundle as the agent would install it."""
    pointer = slots.pointer()
    if pointer is not None:
        return slots.path(pointer.slot)
    info = bundle.inspect(factory)
    bundle.unpack(factory, slots.path(Slot.A))
    slots.activate(Slot.A, info.manifest.version, info.sha256)
    return slots.path(Slot.A)


def _find_out(what: str, slot: Path, execution: ExecutionSettings) -> Found:
    wanted = execution.model_copy(update={"measure": True})
    entry = asyncio.run(proving.find_out(slot, wanted, timeout_s=_CHOOSING_TIMEOUT_S))
    version = manifest.load(slot / bundle.MANIFEST).version
    return Found(what, version, str(entry["reason"]), list(entry["candidates"]))


def _keep(made: Path, task_folder: Path) -> bool:
    """Put what was found where the agent looks for it; False: there is no such place yet."""
    if not task_folder.is_dir() or not made.exists():
        return False
    atomic.write_bytes(task_folder / made.name, made.read_bytes())
    return True


def _of_agent(
    settings: AgentSettings,
    name: str,
    folder: Path,
    slot: Path,
    *,
    seconds: float,
    found: list[Found],
    kept: bool,
) -> BenchReport:
    agent = EdgeAgent(_by_itself(settings, name, folder))
    try:
        description = manifest.load(slot / bundle.MANIFEST)
        easy, hard, model = _timed(agent.infer, list(bundle.load_golden(slot, description).inputs), seconds)
        rss_mb, pss_mb = memory_mb()
    finally:
        agent.close()
    entry = record.entry(slot, Key.of(description, settings.execution))
    return BenchReport(
        task=name,
        version=description.version,
        model_bytes=description.files[bundle.MODEL].size_bytes,
        choice=str(EngineLoader(settings.execution).choice(slot)),
        reason=str(entry["reason"]) if entry else "",
        model=Times.of(model),
        easy=Times.of(easy),
        hard=Times.of(hard),
        rss_mb=rss_mb,
        pss_mb=pss_mb,
        found=found,
        kept=kept,
    )


def _by_itself(settings: AgentSettings, name: str, folder: Path) -> AgentSettings:
    """The same device with this task alone, in another folder, and the same sample is as hard the hundredth time."""
    task = settings.tasks[name].model_copy(
        update={
            "sources": (),
            "deadline_s": 0.0,
            "audit_fraction": 0.0,
            "duplicates": DuplicateSettings(distance=0.0),
        }
    )
    changes = {"state_dir": folder, "tasks": {name: task}, "outcomes": OutcomeSettings(), "server": ServerSettings()}
    return settings.model_copy(update=changes)


def _timed(
    infer: Callable[[Array], Outcome], samples: Sequence[Array], seconds: float
) -> tuple[list[float], list[float], list[float]]:
    """Microseconds of easy samples, of hard ones, and of the model's run in all of them."""
    for index in range(_WARM_UP_RUNS):
        infer(samples[index % len(samples)])
    easy: list[float] = []
    hard: list[float] = []
    model: list[float] = []
    until_s = time.perf_counter() + seconds
    turns = list(samples)
    while turns and time.perf_counter() < until_s and len(easy) < _MOST_EASY:
        again = []
        for sample in turns:
            before_ns = time.perf_counter_ns()
            outcome = infer(sample)
            took_us = (time.perf_counter_ns() - before_ns) / 1000
            model.append(outcome.infer_us)
            goes_up = outcome.action in {Action.OFFLOAD, Action.DEFER}
            (hard if goes_up else easy).append(took_us)
            if not goes_up or len(hard) < _MOST_HARD:
                again.append(sample)
        turns = again
    return easy, hard, model
