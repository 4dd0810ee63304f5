"""Execution providers that this machine does not have: sessions that differ in speed, in what they compute, in manners.

`SimulatedProviders({Provider.CUDA: Manner(takes_s=0.001)})` opens sessions of the real CPU runtime and lets each
provider do as its manner says; the clock moves with every run, so a measurement takes no time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.execution import runtime
from edge_agent.execution.choice import Choice, Kernels, Provider


@dataclass
class Manner:
    """What a provider does.

    Attributes:
        takes_s: of one run with one thread; more threads divide it.
        float_takes_s: with float kernels; None: the same.
        adds: to the first logit.
        refuses: it cannot be loaded.
        falls_back: it loads, and runs on the CPU without a word.
        breaks: the run raises.
        heats_c: degrees by which a run warms the device.
    """

    takes_s: float = 0.001
    float_takes_s: float | None = None
    adds: float = 0.0
    refuses: bool = False
    falls_back: bool = False
    breaks: bool = False
    heats_c: float = 0.0


@dataclass
class SimulatedProviders:
    """An opener of sessions, a clock and a sensor in one.

    Attributes:
        opened: every choice that was asked for.
        temperature_c: None: the device has no sensor.
        slept_s: waited for it to cool; a second cools by `cools_c`.
    """

    manners: Mapping[Provider, Manner] = field(default_factory=dict)
    temperature_c: float | None = None
    cools_c: float = 0.0
    now_s: float = 100.0
    slept_s: float = 0.0
    opened: list[Choice] = field(default_factory=list)

    def __call__(self, model: Path, choice: Choice) -> SimulatedSession:
        self.opened.append(choice)
        manner = self.manners.get(choice.provider, Manner())
        if manner.refuses:
            raise RuntimeError(f"no {choice.provider.value} device")
        return SimulatedSession(self, runtime.open_session(model, Choice()), choice, manner)

    def clock(self) -> float:
        return self.now_s

    def temperature(self) -> float | None:
        return self.temperature_c

    def sleep(self, seconds: float) -> None:
        self.slept_s += seconds
        self.now_s += seconds
        if self.temperature_c is not None:
            self.temperature_c -= self.cools_c * seconds


@dataclass
class SimulatedSession:
    """The real session behind it, a simulated provider in front."""

    device: SimulatedProviders
    real: runtime.Session
    choice: Choice
    manner: Manner

    def run(self, output_names: Any, input_feed: Any) -> list[Any]:
        if self.manner.breaks:
            raise RuntimeError("the device was lost")
        takes_s = self.manner.takes_s
        if self.choice.kernels is Kernels.FLOAT and self.manner.float_takes_s is not None:
            takes_s = self.manner.float_takes_s
        self.device.now_s += takes_s / self.choice.threads
        if self.device.temperature_c is not None:
            self.device.temperature_c += self.manner.heats_c
        logits, *rest = self.real.run(output_names, input_feed)
        moved = np.array(logits)
        moved[:, 0] += self.manner.adds
        return [moved, *rest]

    def get_inputs(self) -> Any:
        return self.real.get_inputs()

    def get_outputs(self) -> Any:
        return self.real.get_outputs()

    def get_providers(self) -> list[str]:
        provider = Provider.CPU if self.manner.falls_back else self.choice.provider
        return [runtime.NAMES[provider]]
