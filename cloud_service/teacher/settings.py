"""How a task names its teachers; importable without any library that runs a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from shared.settings import Section

MAX_TEACHERS = 16

_ENTRY = re.compile(r"^[\w.]+:\w+$")
Entry = Annotated[str, Field(pattern=_ENTRY.pattern)]
Positive = Annotated[float, Field(gt=0.0)]


class Backend(StrEnum):
    """What runs a teacher. `auto` is a wish only: the fastest that keeps its accuracy on this host."""

    AUTO = "auto"
    ONNXRUNTIME = "onnxruntime"
    INT8 = "onnxruntime-int8"
    TORCH = "torch"


class Kind(StrEnum):
    """Where a model comes from."""

    ONNX = "onnx"
    FACTORY = "factory"
    OWN = "edgeloop"
    TIMM = "timm"
    TORCHVISION = "torchvision"


_NAMED = {"edgeloop:": Kind.OWN, "timm:": Kind.TIMM, "torchvision:": Kind.TORCHVISION}


class TeacherSettings(Section):
    """A model that answers what devices find hard; `teacher = "file.onnx"` is short for a table with this `model`.

    Attributes:
        model: an ONNX file, which takes raw samples [N, *input_shape] and gives `logits` float32 [N, C] and, where it
            can, `embedding` [N, E]; `module:function`, called with the task's definition, gives an `nn.Module` of that
            kind that returns logits or (logits, embedding); `edgeloop:NAME`, a network that students have, too;
            `timm:NAME` or `torchvision:NAME`, a picture network of the extra `zoo`.
        weights: of a torch model: `.safetensors`, or a state_dict saved with torch; an ONNX file has its own.
        backend: `auto`, `onnxruntime`, `onnxruntime-int8` or `torch`; `auto` measures once and takes the fastest whose
            answers stay within `max_drop` of the model as it was given.
        temperature: divides the logits before the softmax.
        share: how much this teacher's answer counts among several, relative to theirs.
        augmentations: `module:function`, called with raw samples [N, *input_shape] as numpy; gives V views
            [V, N, *input_shape] of the same dtype, the samples themselves included if they shall count; the same views
            each time. The answer is the mean of the probabilities. None: the sample alone.
        max_drop: largest share of the checked samples whose answer a conversion may change; `auto` takes the int8 form
            only where at least 1/max_drop samples were checked.
        check_samples: of the base data's x_eval that a conversion is held against, at most.
        threads: of one run of this model; leave a core to the service.
        width: channels of each layer as a share of the network's own; of edgeloop's alone.
        picture_max: largest value of a raw picture; of timm and torchvision alone.
        picture_size: side in pixels to which pictures are resized; None: as they come; of timm and torchvision alone.
    """

    model: Annotated[str, Field(min_length=1)]
    weights: Path | None = None
    backend: Backend = Backend.AUTO
    temperature: Positive = 1.0
    share: Positive = 1.0
    augmentations: Entry | None = None
    max_drop: Annotated[float, Field(ge=0.0, le=1.0)] = 0.005
    check_samples: Annotated[int, Field(gt=0)] = 512
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    width: Annotated[float, Field(gt=0.0, le=8.0)] = 1.0
    picture_max: Positive = 255.0
    picture_size: Annotated[int, Field(ge=8, le=4096)] | None = None

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.width != 1.0 and self.kind is not Kind.OWN:
            raise ValueError(f"width: {self.model} is as wide as it is: only edgeloop:NAME has a width")
        if self.kind is Kind.ONNX:
            if self.weights is not None:
                raise ValueError(f"weights: {self.model} is an ONNX file, which has its own: leave weights out")
            if self.backend is Backend.TORCH:
                raise ValueError(f"backend: {self.model} is an ONNX file, which torch does not run: leave backend out")
        elif self.weights is None:
            raise ValueError(
                f"{self.model} needs weights = a .safetensors file or a saved state_dict: they are part of what a "
                "verdict's teacher version names, and nothing is downloaded"
            )
        return self

    @property
    def kind(self) -> Kind:
        for prefix, kind in _NAMED.items():
            if self.model.startswith(prefix):
                return kind
        return Kind.FACTORY if _ENTRY.match(self.model) else Kind.ONNX

    @property
    def files(self) -> tuple[Path, ...]:
        """The files it is read from: the ONNX file, or the weights."""
        if self.kind is Kind.ONNX:
            return (Path(self.model),)
        assert self.weights is not None
        return (self.weights,)

    def below(self, folder: Path) -> TeacherSettings:
        """The same, its relative paths below `folder`."""
        model = str(folder / self.model) if self.kind is Kind.ONNX else self.model
        weights = folder / self.weights if self.weights is not None else None
        return self.model_copy(update={"model": model, "weights": weights})


def _as_tables(value: Any) -> Any:
    """One file or one table is a list of one."""
    if isinstance(value, str | Path):
        return [{"model": str(value)}]
    return [value] if isinstance(value, Mapping | TeacherSettings) else value


Teachers = Annotated[
    tuple[TeacherSettings, ...], BeforeValidator(_as_tables), Field(min_length=1, max_length=MAX_TEACHERS)
]
"""A file's name, a table, or an array of tables; several are an ensemble."""
