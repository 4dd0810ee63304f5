"""Proves a candidate in the inactive slot: does it load, and does it reproduce its golden samples on this processor?

`python -m edge_agent.updates.selftest FOLDER` does it in a process of its own, so that a model that crashes the runtime
or eats the memory does not take the agent down; it prints one JSON line and ends with 0 (passed) or 1.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from edge_agent.errors import SelfTestFailed
from edge_agent.execution.engine import Engine
from shared import bundle, uncertainty
from shared.errors import EdgeloopError


@dataclass(frozen=True, slots=True)
class SelfTest:
    """Attributes:
    samples: golden samples run.
    largest_difference: of a probability, against the recorded one.
    agreement: fraction of equal answers.
    """

    samples: int
    largest_difference: float
    agreement: float


class SelfTester(Protocol):
    """Proves an unpacked bundle; raises `BundleError` when it fails."""

    async def __call__(self, folder: Path, *, timeout_s: float) -> SelfTest: ...


def check(folder: Path) -> SelfTest:
    """Load an unpacked bundle and run its golden samples, one by one as the device will.

    Raises:
        BundleError: incomplete, altered, or the model does not load or run.
        SelfTestFailed: the outputs are not the recorded ones within the manifest's tolerance.
    """
    engine = Engine(folder)
    manifest = engine.manifest
    golden = bundle.load_golden(folder, manifest)
    expected = uncertainty.softmax(golden.logits, manifest.temperature)
    got = uncertainty.softmax(np.stack([engine.run(sample) for sample in golden.inputs]), manifest.temperature)
    difference = float(np.abs(got - expected).max())
    agreement = float((got.argmax(axis=1) == expected.argmax(axis=1)).mean())
    result = SelfTest(len(golden.inputs), difference, agreement)
    limits = manifest.golden
    if not (difference <= limits.tolerance and agreement >= limits.min_agreement):
        raise SelfTestFailed(
            f"the golden samples differ by up to {difference:.3f} (allowed {limits.tolerance}) and agree in "
            f"{agreement:.0%} (needed {limits.min_agreement:.0%}): this processor computes something else"
        )
    return result


async def check_in_child(folder: Path, *, timeout_s: float) -> SelfTest:
    """`check` in a process of its own.

    Raises:
        SelfTestFailed: it failed, died or took longer than `timeout_s`.
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "edge_agent.updates.selftest",
        str(folder),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        output, _ = await asyncio.wait_for(child.communicate(), timeout_s)
    except TimeoutError as err:
        raise SelfTestFailed(f"the self-test took longer than {timeout_s:.0f} s") from err
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    try:
        value = json.loads(output)
    except ValueError as err:
        raise SelfTestFailed(f"the self-test died with code {child.returncode}: the model crashes the runtime") from err
    if "error" in value:
        raise SelfTestFailed(str(value["error"]))
    return SelfTest(**value)


def main() -> int:
    """The child's entry."""
    try:
        result = check(Path(sys.argv[1]))
    except EdgeloopError as err:
        sys.stdout.write(json.dumps({"error": str(err)}))
        return 1
    sys.stdout.write(json.dumps(asdict(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
