"""Puts a task's pipeline together from real parts, as `edge_agent.task` does, with a say in each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from edge_agent.departure import Departure
from edge_agent.execution.engine import Engine
from edge_agent.judge import Judge
from edge_agent.ledger import Ledger
from edge_agent.outcomes import Sink
from edge_agent.pipeline import Pipeline
from edge_agent.redaction import Redaction
from edge_agent.settings import TaskSettings
from edge_agent.sinks.order import InOrder
from edge_agent.spool.spool import Spool
from edge_agent.uplink.correlation import Correlation
from shared.codec import Array
from shared.messages import SampleHeader


@dataclass(frozen=True, slots=True)
class Assembled:
    """A pipeline and the judge within it."""

    pipeline: Pipeline
    judge: Judge


def not_connected(header: SampleHeader, tensor: Array) -> bool:
    """A `send_now` that leaves everything to the uplink."""
    return False


def assemble(
    settings: TaskSettings,
    engine: Engine,
    *,
    spool: Spool,
    ledger: Ledger,
    sink: Sink,
    correlation: Correlation | None = None,
    rng: Random | None = None,
    clock: Callable[[], float] = time.monotonic,
    wake: Callable[[], None] = lambda: None,
    send_now: Callable[[SampleHeader, Array], bool] = not_connected,
    redaction: Redaction | None = None,
) -> Assembled:
    """The pipeline of a task `digits`."""
    correlation = correlation or Correlation()
    judge = Judge(settings, engine.manifest, rng=rng or Random(1), clock=clock)
    in_order = InOrder(sink)
    departure = Departure(
        redaction=redaction, spool=spool, correlation=correlation, sink=in_order, send_now=send_now, wake=wake
    )
    pipeline = Pipeline(
        "digits",
        settings,
        engine,
        judge=judge,
        departure=departure,
        spool=spool,
        ledger=ledger,
        correlation=correlation,
        sink=in_order,
    )
    return Assembled(pipeline, judge)
