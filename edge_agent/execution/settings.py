"""How models run on this device."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shared.settings import Section


class ExecutionSettings(Section):
    """Which execution provider and how many threads; what is not set may be measured, once a model.

    Attributes:
        provider: "auto", or one of CUDA, TensorRT, OpenVINO, QNN, CoreML, XNNPACK, CPU.
        threads: of one inference; 0: chosen by measuring.
        max_threads: the most that measuring tries; 0: all cores.
        measure: whether to measure at all; False: CPU and one thread, unless set above.
        max_temperature_c: a choice that heats the device beyond this is passed over.
    """

    provider: str = "auto"
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    max_threads: Annotated[int, Field(ge=0, le=256)] = 0
    measure: bool = False
    max_temperature_c: float = 85.0
