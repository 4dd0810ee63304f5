"""What `edge-agent bench` measured, as values and in plain words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edge_agent.execution.choice import Choice


@dataclass(frozen=True, slots=True)
class Times:
    """Attributes:
    p50_us, p99_us: microseconds.
    count: how many were timed.
    """

    p50_us: float
    p99_us: float
    count: int

    @classmethod
    def of(cls, values_us: list[float]) -> Times | None:
        """None: there are none."""
        if not values_us:
            return None
        return cls(float(np.percentile(values_us, 50)), float(np.percentile(values_us, 99)), len(values_us))


@dataclass(frozen=True, slots=True)
class Found:
    """How one bundle's model runs best here.

    Attributes:
        bundle: which one, in words.
        reason: what was chosen and why.
        candidates: each way that was tried, as `execution.json` has it.
    """

    bundle: str
    version: str
    reason: str
    candidates: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class BenchReport:
    """What was measured of one task.

    Attributes:
        model: the model's run alone, as the agent's own outcomes say.
        easy, hard: all of `infer`, of golden samples that stay on the device, and of those that are spooled.
        rss_mb, pss_mb: memory of an agent with this task alone; the second counts what processes share by shares.
        reason: of the choice; empty: nobody has measured.
        found: what was measured to choose.
        kept: the agent finds the choice at its next start.
    """

    task: str
    version: str
    model_bytes: int
    choice: str
    reason: str
    model: Times | None
    easy: Times | None
    hard: Times | None
    rss_mb: float | None
    pss_mb: float | None
    found: list[Found] = field(default_factory=list)
    kept: bool = False


def words(report: BenchReport) -> str:
    """For a person."""
    lines = [
        f"{report.task} {report.version}: model.onnx of {report.model_bytes / 1024:,.0f} KB, on {report.choice}",
        *_timed("the model's run", report.model),
        *_timed("infer, easy sample", report.easy, _beyond(report.easy, report.model)),
        *_timed(
            "infer, hard sample", report.hard, _beyond(report.hard, report.model) + ", with its way into the spool"
        ),
    ]
    if report.rss_mb is not None and report.pss_mb is not None:
        lines.append(
            _row("memory", f"{report.rss_mb:.0f} MB resident, {report.pss_mb:.0f} MB without what others share")
        )
    lines.append(_row("why it runs so", report.reason or f"nobody has measured on this device; {_TRY}"))
    for found in report.found:
        lines += ["", f"{found.bundle}, {found.version}", *(_candidate(value) for value in found.candidates)]
        lines.append(f"  → {found.reason}")
    if report.found:
        lines += ["", *_afterwards(report)]
    return "\n".join(lines)


_TRY = "edge-agent bench --choose does"


def _row(what: str, text: str) -> str:
    return f"  {what:20} {text}"


def _timed(what: str, times: Times | None, note: str = "") -> list[str]:
    if times is None:
        return []
    return [_row(what, f"p50 {times.p50_us:,.0f} µs, p99 {times.p99_us:,.0f} µs of {times.count:,}{note}")]


def _beyond(whole: Times | None, model: Times | None) -> str:
    return f": {whole.p50_us - model.p50_us:,.0f} µs around the model" if whole and model else ""


def _candidate(value: dict[str, Any]) -> str:
    choice = Choice.parse(value["choice"])
    if value["p50_us"] is None:
        return _row(str(choice), f"{value['verdict']}: {value['fault']}")
    temperature = "no sensor" if value["temperature_c"] is None else f"{value['temperature_c']:.0f} °C"
    return (
        f"  {choice!s:32} {value['p50_us']:>10,.0f} µs {value['cpu_us']:>10,.0f} µs of processor time, "
        f"golden samples differ by {value['golden_difference']:.4f}, {temperature}: {value['verdict']}"
    )


def _afterwards(report: BenchReport) -> list[str]:
    kept = "Kept: the agent runs so from its next start."
    lost = "Not kept: the agent has never run here. Start it once, then choose again."
    lines = [kept if report.kept else lost]
    if len(report.found) == 1:
        lines.append("A bundle holds one graph; --against FLOAT.bundle compares it with a float one.")
    return lines
