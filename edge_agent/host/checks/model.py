"""Does each task's model load, reproduce its golden samples, and run fast enough? And on what does it run?"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from edge_agent.execution import record, runtime
from edge_agent.execution.loading import EngineLoader
from edge_agent.execution.record import Key
from edge_agent.execution.settings import ExecutionSettings
from edge_agent.host.checks.finding import Finding, fail, ok, warn
from edge_agent.updates.selftest import check_in_child
from edge_agent.updates.slots import Slots
from shared import bundle, manifest
from shared.errors import BundleError, EdgeloopError

_CHECK = "model"
_RUNS = 20
_TIMEOUT_S = 120.0
_SLOW_S = 1.0


def check_model(task: str, factory: Path, *, task_folder: Path, execution: ExecutionSettings) -> Iterator[Finding]:
    """Findings on one task's model: the active slot's, or the factory's before the first start."""
    with ExitStack() as stack:
        pointer = Slots(task_folder).pointer() if task_folder.is_dir() else None
        try:
            if pointer is not None:
                slot = task_folder / pointer.slot.value
            else:
                slot = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-agent-doctor-"))) / "a"
                bundle.unpack(factory, slot)
            closeness = asyncio.run(check_in_child(slot, timeout_s=_TIMEOUT_S))
            yield ok(
                _CHECK,
                f"{task}: {manifest.load(slot / bundle.MANIFEST).version} answers {closeness.samples} golden samples "
                f"{'as recorded' if closeness.agreement == 1 else f'in {closeness.agreement:.0%} as recorded'}",
            )
            yield from _speed(task, slot, execution)
        except PermissionError as err:
            yield warn(_CHECK, f"{task}: this user may not read {err.filename}: type the same with sudo")
        except BundleError as err:
            yield fail(_CHECK, f"{task}: {err}")
        except EdgeloopError as err:
            yield fail(_CHECK, f"{task}: the model could not be tried: {err}")
        if pointer is not None and not factory.exists():
            yield warn(_CHECK, f"{task}: the factory bundle {factory} is gone; it is the last resort: put it back")


def check_accelerators(execution: ExecutionSettings) -> Iterator[Finding]:
    """Findings on what models could run on."""
    there = ", ".join(provider.value for provider in runtime.available())
    wanted = execution.provider
    if wanted != "auto" and wanted not in runtime.available():
        yield warn(
            "accelerators",
            f"{wanted.value} is wanted and not there, the CPU is used: onnxruntime here has {there}; install its build",
        )
        return
    measured = "measured on this device" if execution.measure else "not measured; `edge-agent bench --choose` does"
    yield ok("accelerators", f"onnxruntime has {there}; which is best is {measured}")


def _speed(task: str, slot: Path, execution: ExecutionSettings) -> Iterator[Finding]:
    engine = EngineLoader(execution)(slot)
    inputs = bundle.load_golden(slot, engine.manifest).inputs
    took = []
    for number in range(_RUNS):
        began = time.perf_counter()
        engine.run(inputs[number % len(inputs)])
        took.append(time.perf_counter() - began)
    median_s = statistics.median(took)
    found = record.entry(slot, Key.of(engine.manifest, execution))
    why = f" ({found['reason']})" if found else ""
    says = f"{task}: an answer takes {median_s * 1000:.3g} ms on {EngineLoader(execution).choice(slot)}{why}"
    yield warn(_CHECK, f"{says}: a smaller model would be kinder") if median_s > _SLOW_S else ok(_CHECK, says)
