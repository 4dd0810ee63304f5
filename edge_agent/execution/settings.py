"""How models run on this device."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from edge_agent.execution.choice import Provider
from shared.settings import Section

_NAMES = {provider.casefold(): provider.value for provider in Provider}


def _any_case(value: Any) -> Any:
    return _NAMES.get(value.casefold(), value) if isinstance(value, str) else value


class ExecutionSettings(Section):
    """Which execution provider and how many threads. Nothing but CPU and one thread runs in the agent unmeasured.

    Attributes:
        provider: "auto": the best there is, in the order TensorRT, CUDA, OpenVINO, QNN, CoreML, XNNPACK, CPU; or one of
            these. CPU takes over where it is not there or does not reproduce the golden samples.
        threads: of one inference; 0: one, or what measuring finds.
        max_threads: the most that measuring tries; 0: all cores.
        measure: try each provider, number of threads and kind of kernels on this device, once a model, in a process of
            its own, and keep the fastest that reproduces the golden samples and stays cool.
        measure_s: how long each of them runs; longer shows more of its heat.
        max_temperature_c: a way of running that heats the hottest sensor beyond this is passed over.
    """

    provider: Annotated[Literal["auto"] | Provider, BeforeValidator(_any_case)] = "auto"
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    max_threads: Annotated[int, Field(ge=0, le=256)] = 0
    measure: bool = False
    measure_s: Annotated[float, Field(gt=0, le=600)] = 1.0
    max_temperature_c: float = 85.0
