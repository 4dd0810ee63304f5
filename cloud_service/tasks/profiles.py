"""What a kind of device has room for: the limits that a candidate must fit to be worth sending there."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shared.settings import Section

_Count = Annotated[int, Field(gt=0)]


class DeviceProfile(Section):
    """A kind of device. A candidate that fits none of a task's profiles does not pass the gate.

    Attributes:
        max_model_bytes: largest model.onnx; None: any.
        max_latency_ratio: longest time for one sample, as a multiple of the present model's, both measured in one run
            on the training machine; None: any. Nothing is held against it while the task has no model.
        max_memory_bytes: most resident memory that a session of the model may add, measured on the training machine;
            the smallest model's takes about 11 MB. None: any.
    """

    max_model_bytes: _Count | None = None
    max_latency_ratio: Annotated[float, Field(gt=0.0)] | None = None
    max_memory_bytes: _Count | None = None
