"""Proves a candidate in the inactive slot: does it load, and does it reproduce its golden samples on this processor?

`python -m edge_agent.updates.selftest PARENT FOLDER` does it in a process of its own, so that a model that crashes the
runtime or eats the memory does not take the agent down; it prints one JSON line and ends with 0 (passed) or 1. PARENT
is the agent's process id: the child ends with it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from edge_agent.errors import SelfTestFailed
from edge_agent.execution import golden, proving
from edge_agent.execution.child import end_with_parent, spawned
from edge_agent.execution.engine import Engine
from edge_agent.execution.golden import Closeness
from edge_agent.execution.settings import ExecutionSettings
from shared import bundle
from shared.errors import EdgeloopError


class SelfTester(Protocol):
    """Proves an unpacked bundle; raises `BundleError` when it fails."""

    async def __call__(self, folder: Path, *, timeout_s: float) -> Closeness: ...


def check(folder: Path) -> Closeness:
    """Load an unpacked bundle and run its golden samples, one by one as the device will.

    Raises:
        BundleError: incomplete, altered, or the model does not load or run.
        SelfTestFailed: the outputs are not the recorded ones within the manifest's tolerance.
    """
    engine = Engine(folder)
    closeness = golden.compare(engine.run, bundle.load_golden(folder, engine.manifest), engine.manifest)
    limits = engine.manifest.golden
    difference, agreement = closeness.largest_difference, closeness.agreement
    if not (difference <= limits.tolerance and agreement >= limits.min_agreement):
        raise SelfTestFailed(
            f"the golden samples differ by up to {difference:.3f} (allowed {limits.tolerance}) and agree in "
            f"{agreement:.0%} (needed {limits.min_agreement:.0%}): this processor computes something else"
        )
    return closeness


async def check_in_child(folder: Path, *, timeout_s: float) -> Closeness:
    """`check` in a process of its own, which ends with this one.

    Raises:
        SelfTestFailed: it failed, died or took longer than `timeout_s`.
    """
    async with spawned("edge_agent.updates.selftest", [str(folder)]) as child:
        try:
            output, _ = await asyncio.wait_for(child.communicate(), timeout_s)
        except TimeoutError as err:
            raise SelfTestFailed(f"the self-test took longer than {timeout_s:.0f} s") from err
    try:
        value = json.loads(output)
    except ValueError as err:
        raise SelfTestFailed(f"the self-test died with code {child.returncode}: the model crashes the runtime") from err
    if "error" in value:
        raise SelfTestFailed(str(value["error"]))
    return Closeness(**value)


def self_tester(execution: ExecutionSettings) -> SelfTester:
    """`check_in_child`, and for what passes, as the settings say, how it runs best here: in the time that is left."""

    async def prove(folder: Path, *, timeout_s: float) -> Closeness:
        until_s = time.monotonic() + timeout_s
        closeness = await check_in_child(folder, timeout_s=timeout_s)
        if proving.due(folder, execution):
            await proving.find_out(folder, execution, timeout_s=until_s - time.monotonic())
        return closeness

    return prove


def main(folder: Path) -> int:
    """The child's work."""
    try:
        result = check(folder)
    except EdgeloopError as err:
        sys.stdout.write(json.dumps({"error": str(err)}))
        return 1
    sys.stdout.write(json.dumps(asdict(result)))
    return 0


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    sys.exit(main(Path(sys.argv[2])))
