"""An agent without a model, for tests of what serves it: its answer is the position of a sample's largest number."""

from __future__ import annotations

import threading

import numpy as np

from edge_agent.outcomes import Outcome
from shared.manifest import Manifest, TensorSpec
from shared.messages import BudgetState, Conditions, LedgerBytes, SpoolState, TaskCounts, Telemetry
from tests.sim.outcomes import outcome

FULL_TELEMETRY = Telemetry(
    seq=1,
    uptime_s=12.5,
    tasks={"digits": TaskCounts(inferences=7, kept=4, offloaded=3, audits=1, verdicts=2, agreed=1)},
    ledger=LedgerBytes(samples=100, telemetry=20),
    spool=SpoolState(items=2, bytes=640, evicted={"age": 3}, refused=1),
    budgets={
        "digits": BudgetState(
            threshold=0.5,
            offload=0.25,
            agreement=0.9,
            agreement_low=0.8,
            agreement_high=0.95,
            goal_met=False,
            would_need=0.4,
        )
    },
    conditions=Conditions(
        battery=0.75,
        charging=True,
        temperature_c=48.5,
        cpu=0.2,
        memory=0.5,
        disk=0.1,
        round_trip_s=0.02,
        metered=True,
        measures=("fewer_audits",),
    ),
    bytes_today=120,
)


def manifest(*, shape: tuple[int, ...] = (8, 8), dtype: str = "uint8", version: str = "v1") -> Manifest:
    return Manifest(task="digits", version=version, labels=tuple("0123456789"), input={"shape": shape, "dtype": dtype})


class SimulatedAgent:
    """See the module.

    Attributes:
        asked: what `infer` was called with: (task, deadline, reference).
        go: cleared: `infer` blocks until it is set.
        entered: released once for each `infer` that has begun.
        fault: raised by the next `infer`.
    """

    def __init__(self, spec: TensorSpec | None = None) -> None:
        self.manifest = manifest() if spec is None else manifest(shape=spec.shape, dtype=spec.dtype)
        self.reported = FULL_TELEMETRY
        self.is_ready = True
        self.asked: list[tuple[str | None, float | None, int | str | None]] = []
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Semaphore(0)
        self.fault: Exception | None = None

    def infer(self, tensor, *, task=None, deadline=None, reference=None) -> Outcome:
        self.asked.append((task, deadline, reference))
        self.entered.release()
        self.go.wait(10)
        if self.fault is not None:
            raise self.fault
        prediction = int(np.argmax(tensor)) % 10
        return outcome(
            seq=len(self.asked), label=str(prediction), prediction=prediction, reference=reference,
            bundle_version=self.manifest.version,
        )  # fmt: skip

    def manifests(self) -> dict[str, Manifest]:
        return {"digits": self.manifest}

    def ready(self) -> bool:
        return self.is_ready

    def telemetry(self) -> Telemetry:
        return self.reported
