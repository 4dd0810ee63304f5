"""Finds out in child processes how a slot's model runs best on this device, and keeps what was found."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_agent.execution import child, record, runtime
from edge_agent.execution.choice import SAFE, Choice, Limits, Measurement, Provider, candidates, choose
from edge_agent.execution.record import Key
from edge_agent.execution.settings import ExecutionSettings
from shared import bundle, manifest

log = logging.getLogger(__name__)

MODULE = "edge_agent.execution.measuring"
# How long one way may take beyond its measuring: some providers compile the graph first.
_STUCK_S = 90.0
# Operators' names stand in the file as plain bytes.
_QUANTIZED, _FUSED = b"DequantizeLinear", b"QLinearConv"

Spawn = Callable[[str, Sequence[str]], AbstractAsyncContextManager[asyncio.subprocess.Process]]


def wanted(slot: Path, settings: ExecutionSettings, providers: Sequence[Provider] | None = None) -> tuple[Choice, ...]:
    """The ways that are to be measured for a slot's model; fewer than two: there is nothing to find out.

    Without `measure` that is the best provider there is, which must prove itself before it is used.

    Args:
        providers: those that are there, the preferred first; None: ask onnxruntime.
    """
    there = runtime.available() if providers is None else providers
    asked = tuple(p for p in there if settings.provider in {"auto", p})
    if not settings.measure:
        best = asked[:1]
        return tuple(dict.fromkeys((SAFE, *(Choice(p, settings.threads or 1) for p in best))))
    cores = len(os.sched_getaffinity(0))
    return candidates(
        asked or (Provider.CPU,),
        threads=settings.threads,
        max_threads=settings.max_threads or cores,
        quantized=_is_quantized(slot / bundle.MODEL),
    )


def due(slot: Path, settings: ExecutionSettings) -> bool:
    """Whether there is something to find out that nobody has yet.

    Raises:
        BundleError: the manifest cannot be read.
    """
    key = Key.of(manifest.load(slot / bundle.MANIFEST), settings)
    return record.remembered(slot, key) is None and len(wanted(slot, settings)) > 1


async def find_out(
    slot: Path, settings: ExecutionSettings, *, timeout_s: float, spawn: Spawn = child.spawned
) -> dict[str, Any]:
    """Measure every wanted way, choose one, keep the entry beside the slot and return it.

    What is not measured within `timeout_s` is passed over with that as its reason.

    Raises:
        BundleError: the manifest cannot be read.
    """
    description = manifest.load(slot / bundle.MANIFEST)
    choices = wanted(slot, settings)
    limits = Limits(description.golden.tolerance, description.golden.min_agreement, settings.max_temperature_c)
    until_s = time.monotonic() + timeout_s
    measurements: list[Measurement] = []
    while len(measurements) < len(choices):
        rest = choices[len(measurements) :]
        left_s = until_s - time.monotonic()
        if left_s <= 0:
            measurements += [Measurement(choice, fault="there was no time left to measure it") for choice in rest]
            break
        measurements += await _measured(slot, rest, settings, timeout_s=left_s, spawn=spawn)
    decision = choose(measurements, limits)
    log.info("%s %s runs on %s", description.task, description.version, decision.reason)
    key = Key.of(description, settings)
    return record.remember(slot, key, decision, measurements=measurements, limits=limits)


async def _measured(
    slot: Path, choices: Sequence[Choice], settings: ExecutionSettings, *, timeout_s: float, spawn: Spawn
) -> list[Measurement]:
    """What one child measured of these, at least one; the one that it died of, or got stuck in, is a fault."""
    asked = json.dumps([asdict(choice) for choice in choices])
    arguments = [str(slot), str(settings.measure_s), str(settings.max_temperature_c), asked]
    measurements: list[Measurement] = []
    async with spawn(MODULE, arguments) as process:
        if process.stdout is None:
            raise RuntimeError("the child's output is a pipe")
        for choice in choices:
            limit_s = min(timeout_s, settings.measure_s + _STUCK_S)
            try:
                measurement = await asyncio.wait_for(_next(process.stdout, choice), limit_s)
            except TimeoutError:
                return [*measurements, Measurement(choice, fault=f"it took longer than {limit_s:.0f} s")]
            if measurement is None:
                return [*measurements, Measurement(choice, fault=f"the process died: {_ending(await process.wait())}")]
            measurements.append(measurement)
    return measurements


async def _next(output: asyncio.StreamReader, choice: Choice) -> Measurement | None:
    """What the child says of this choice; None: it has ended. What libraries print in between is passed over."""
    while True:
        try:
            line = await output.readline()
        except ValueError:  # a line beyond the reader's limit
            continue
        if not line:
            return None
        with suppress(KeyError, TypeError, ValueError):
            value = json.loads(line)
            if Choice.parse(value["choice"]) == choice:
                return Measurement(**{**value, "choice": choice})


def _ending(code: int) -> str:
    try:
        return signal.Signals(-code).name if code < 0 else f"code {code}"
    except ValueError:
        return f"signal {-code}"


def _is_quantized(model: Path) -> bool:
    """Whether a graph has quantized parts that onnxruntime fuses, and so may as well not fuse."""
    try:
        data = model.read_bytes()
    except OSError:
        return False
    return _QUANTIZED in data and _FUSED not in data
