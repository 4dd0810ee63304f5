"""Parts of an agent, real ones, on a temporary folder."""

from dataclasses import dataclass, field
from random import Random

import pytest

from edge_agent.execution.engine import Engine
from edge_agent.judge import Judge
from edge_agent.ledger import Ledger
from edge_agent.outcomes import Correction, Outcome
from edge_agent.pipeline import Pipeline
from edge_agent.redaction import Redaction
from edge_agent.settings import TaskSettings
from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.spool import Spool
from edge_agent.uplink.correlation import Correlation
from tests.sim import bundles
from tests.sim.assembly import assemble, not_connected
from tests.sim.clock import SimulatedClock


class ListSink:
    """Keeps what it is told."""

    def __init__(self):
        self.outcomes: list[Outcome] = []
        self.corrections: list[Correction] = []

    def outcome(self, outcome):
        self.outcomes.append(outcome)

    def correction(self, correction):
        self.corrections.append(correction)

    def close(self):
        pass


@dataclass
class Parts:
    """A pipeline and everything around it."""

    folder: object
    engine: Engine
    spool: Spool
    ledger: Ledger
    correlation: Correlation
    sink: ListSink
    clock: SimulatedClock
    pipeline: Pipeline
    judge: Judge | None = None
    wakes: list = field(default_factory=list)


@pytest.fixture
def build(tmp_path):
    """A function that puts the parts together; called twice with the same name it is a restart."""
    built = []

    def make(
        name="device",
        *,
        spool=None,
        rng=None,
        wake=None,
        send_now=None,
        redact=None,
        bundle=None,
        correlation=None,
        **task,
    ):
        folder = tmp_path / name
        slot = folder / "slot"
        if not slot.exists():
            slot.parent.mkdir(parents=True)
            bundles.unpacked(slot, **(bundle or {}))
        wakes = []
        clock = SimulatedClock()
        parts = Parts(
            folder=folder,
            engine=Engine(slot),
            spool=Spool(folder / "spool", spool or SpoolSettings()),
            ledger=Ledger(folder / "ledger.json"),
            correlation=correlation or Correlation(),
            sink=ListSink(),
            clock=clock,
            pipeline=None,
            wakes=wakes,
        )
        assembled = assemble(
            TaskSettings(bundle=folder / "slot.bundle", **task),
            parts.engine,
            spool=parts.spool,
            ledger=parts.ledger,
            sink=parts.sink,
            correlation=parts.correlation,
            rng=rng or Random(1),
            clock=clock,
            wake=wake or (lambda: wakes.append(1)),
            send_now=send_now or not_connected,
            redaction=Redaction(redact, "redact") if redact else None,
        )
        parts.pipeline, parts.judge = assembled.pipeline, assembled.judge
        built.append(parts)
        return parts

    yield make
    for parts in built:
        parts.spool.close()
