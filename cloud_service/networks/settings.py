"""How a task names its student; torch-free, read with the task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from shared.settings import Section

# `edgeloop:`, `timm:` and `torchvision:` name networks; anything else before the colon is a module.
STUDENT = r"^([\w.]+:\w+|edgeloop:[\w-]+|timm:[\w.-]+)$"
NetworkName = Annotated[str, Field(pattern=STUDENT)]


class StudentSettings(Section):
    """A network of the task's student; `student = "edgeloop:resnet8"` is short for a table with this `network`.

    Attributes:
        network: `edgeloop:NAME` (`edgeloop networks` lists them), `timm:NAME` or `torchvision:NAME` of the extra `zoo`,
            or `module:function`, called with the task's definition, which takes no other key of this table.
        width: channels of each layer as a share of the network's own, in multiples of 8.
        weights: of a network that is named: `.safetensors`, or a state_dict saved with torch. What does not fit, such
            as the last layer over other labels, begins anew.
        input_size: side in pixels to which pictures are resized inside the graph; None: as they come.
        keep_relu6: ReLU6 stays; else it becomes ReLU, which runs on integer kernels.
    """

    network: NetworkName
    width: Annotated[float, Field(gt=0.0, le=8.0)] = 1.0
    weights: Path | None = None
    input_size: Annotated[int, Field(ge=8, le=4096)] | None = None
    keep_relu6: bool = False
