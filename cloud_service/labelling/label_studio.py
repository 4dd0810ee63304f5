"""Samples as tasks of Label Studio (https://labelstud.io/guide/task_format), and the matching labelling config."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID
from xml.sax.saxutils import quoteattr

import numpy as np

from cloud_service.labelling import pictures
from cloud_service.labelling.pictures import Kind
from shared.codec import Array
from shared.manifest import TensorSpec

# Names in the labelling config: the control that people use, and the thing that they look at.
CONTROL = "label"
OBJECT = "sample"
# The field of a task's data that tells which sample it is.
SAMPLE_ID = "sample_id"


@dataclass(frozen=True, slots=True)
class Said:
    """An answer that exists already.

    Attributes:
        score: how sure, in [0, 1]; people sort by it.
        by: who, as Label Studio's `model_version`.
    """

    label: str
    score: float
    by: str


def config(labels: Sequence[str], spec: TensorSpec) -> str:
    """The labelling config (XML) for a task with these labels and this input."""
    choices = "\n".join(f"    <Choice value={quoteattr(label)}/>" for label in labels)
    control = (
        f'  <Choices name="{CONTROL}" toName="{OBJECT}" choice="single" showInline="true">\n{choices}\n  </Choices>'
    )
    return f"<View>\n{_object(spec)}\n{control}\n</View>\n"


def shown(tensor: Array, kind: Kind, *, link: str) -> object:
    """What a task's data holds of a sample of this kind: a PNG as data URL, columns, or a paragraph with the link."""
    if kind is Kind.IMAGE:
        content = pictures.png(pictures.enlarged(pictures.picture(tensor)))
        return f"data:image/png;base64,{base64.b64encode(content).decode()}"
    if kind is Kind.SERIES:
        return pictures.columns(tensor)
    return f"<p><a href={quoteattr(link)}>{tensor.dtype} {list(tensor.shape)}</a></p>"


def task(
    sample_id: UUID, data: Mapping[str, object], *, said: Sequence[Said], human: str | None = None
) -> dict[str, Any]:
    """A task: its data, the answers that exist as predictions, a person's label as an annotation."""
    made: dict[str, Any] = {
        "data": {SAMPLE_ID: str(sample_id), **data},
        "predictions": [
            {"model_version": each.by, "score": each.score, "result": [_choice(each.label, score=each.score)]}
            for each in said
        ],
    }
    if human is not None:
        made["annotations"] = [{"was_cancelled": False, "ground_truth": False, "result": [_choice(human)]}]
    return made


def _choice(label: str, *, score: float | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": "chosen",
        "from_name": CONTROL,
        "to_name": OBJECT,
        "type": "choices",
        "value": {"choices": [label]},
    }
    return made if score is None else {**made, "score": score}


def _object(spec: TensorSpec) -> str:
    kind = pictures.kind_of(spec.shape, np.dtype(spec.dtype))
    if kind is Kind.IMAGE:
        return f'  <Image name="{OBJECT}" value="${kind.value}" zoom="true"/>'
    if kind is Kind.LINK:
        return f'  <HyperText name="{OBJECT}" value="${kind.value}" valueType="text"/>'
    curves = "\n".join(f'    <Channel column="{name}"/>' for name in pictures.channels(spec.shape))
    opening = f'  <TimeSeries name="{OBJECT}" value="${kind.value}" valueType="json" timeColumn="step">'
    return f"{opening}\n{curves}\n  </TimeSeries>"
