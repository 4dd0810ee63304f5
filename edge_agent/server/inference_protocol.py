"""The Open Inference Protocol V2 over HTTP, without HTTP: bytes to a request, outcomes to bytes. Pure.

Source: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md, and the binary
tensor data extension: the JSON comes first, as long as `Inference-Header-Content-Length` says, then the raw tensors in
the JSON's order. Fields that the protocol does not know are left alone, as it asks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from edge_agent.errors import RequestRefused
from edge_agent.outcomes import Outcome
from edge_agent.server import tensors
from edge_agent.server.metadata import INPUT, OUTPUTS
from shared.codec import Array
from shared.manifest import TensorSpec

_US_PER_S = 1_000_000
_MAX_NAME = 256


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _TensorParameters(_Wire):
    """What the binary extension and Triton's other extensions say of one tensor; the latter two are not offered."""

    binary_data_size: Annotated[int, Field(ge=0)] | None = None
    binary_data: bool | None = None
    classification: JsonValue = None
    shared_memory_region: JsonValue = None


class _Input(_Wire):
    name: Annotated[str, Field(max_length=_MAX_NAME)]
    shape: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(max_length=8)]
    datatype: Annotated[str, Field(max_length=_MAX_NAME)]
    parameters: _TensorParameters = _TensorParameters()
    data: list[Any] | None = None


class _Output(_Wire):
    name: Annotated[str, Field(max_length=_MAX_NAME)]
    parameters: _TensorParameters = _TensorParameters()


class _Parameters(_Wire):
    """`timeout` is Triton's, in µs; `deadline`, in s, and `reference` are ours."""

    binary_data_output: bool = False
    timeout: Annotated[int, Field(ge=0)] | None = None
    deadline: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] | None = None
    reference: Annotated[str, Field(max_length=_MAX_NAME)] | int | None = None


class _Request(_Wire):
    id: Annotated[str, Field(max_length=_MAX_NAME)] = ""
    parameters: _Parameters = _Parameters()
    inputs: Annotated[tuple[_Input, ...], Field(max_length=16)]
    outputs: Annotated[tuple[_Output, ...], Field(max_length=64)] = ()


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """What a client asks.

    Attributes:
        inputs: arrays by name.
        outputs: the wanted outputs and whether each is wanted as raw bytes.
        deadline_s: how long the client waits for a verdict; None: as the settings say.
        reference: to know the sample by in outcomes: the client's own, else the request's id.
    """

    id: str
    inputs: Mapping[str, Array]
    outputs: tuple[tuple[str, bool], ...]
    deadline_s: float | None
    reference: int | str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """Attributes:
    json_bytes: length of the JSON before the raw tensors; None: the body is JSON alone.
    """

    body: bytes
    json_bytes: int | None


def read_request(body: bytes, *, json_bytes: str | None, max_json_bytes: int) -> InferenceRequest:
    """A request's body; `json_bytes` is the header that says where its JSON ends, None: it is all JSON.

    Raises:
        RequestRefused: not the protocol's JSON, or tensors that do not fit their description.
    """
    end = _json_end(body, json_bytes)
    if end > max_json_bytes:
        raise RequestRefused(f"{end:,} bytes of JSON; at most {max_json_bytes:,} are taken: send binary tensor data")
    try:
        request = _Request.model_validate_json(body[:end])
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the request"
        raise RequestRefused(f"{where}: {first['msg']}") from err
    said = request.parameters
    deadline_s = said.timeout / _US_PER_S if said.deadline is None and said.timeout is not None else said.deadline
    return InferenceRequest(
        id=request.id,
        inputs=_arrays(request.inputs, memoryview(body)[end:]),
        outputs=_wanted(request.outputs, binary=said.binary_data_output),
        deadline_s=deadline_s,
        reference=said.reference if said.reference is not None else request.id or None,
    )


def samples_of(request: InferenceRequest, spec: TensorSpec, *, max_batch: int) -> Array:
    """The request's samples, [N, *shape]; a tensor without a batch axis is one sample.

    Raises:
        RequestRefused: another input, shape or datatype than the model's, or too many samples at once.
    """
    if set(request.inputs) != {INPUT}:
        raise RequestRefused(f"the model has one input, {INPUT!r}; the request names {sorted(request.inputs)}")
    tensor = request.inputs[INPUT]
    batch = tensor[None] if tensor.shape == spec.shape else tensor
    if batch.shape[1:] != spec.shape or batch.dtype != spec.dtype:
        raise RequestRefused(
            f"{INPUT} is {tensors.datatype_of(str(tensor.dtype))} of shape {list(tensor.shape)}; "
            f"the model takes {tensors.datatype_of(spec.dtype)} of shape {[-1, *spec.shape]} or {list(spec.shape)}"
        )
    if not 1 <= len(batch) <= max_batch:
        raise RequestRefused(f"{len(batch)} samples in one request; 1 to {max_batch} are taken")
    return batch


def write_answer(model: str, request: InferenceRequest, outcomes: Sequence[Outcome]) -> Answer:
    """The answer to `request`: one outcome a sample, in the samples' order."""
    described: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for name, binary in request.outputs:
        datatype, take = OUTPUTS[name]
        values = [take(outcome) for outcome in outcomes]
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": [len(values)]}
        if binary:
            raw.append(tensors.to_bytes(values, datatype))
            output["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            output["data"] = values
        described.append(output)
    answer: dict[str, Any] = {"model_name": model, "model_version": outcomes[-1].bundle_version}
    if request.id:
        answer["id"] = request.id
    if len(outcomes) == 1:
        answer["parameters"] = _parameters(outcomes[0])
    text = json.dumps(answer | {"outputs": described}, separators=(",", ":")).encode()
    return Answer(b"".join([text, *raw]), len(text) if raw else None)


def _json_end(body: bytes, json_bytes: str | None) -> int:
    if json_bytes is None:
        return len(body)
    if not (json_bytes.isascii() and json_bytes.isdigit()) or int(json_bytes[:20]) > len(body):
        raise RequestRefused(f"Inference-Header-Content-Length {json_bytes[:40]!r} is not within the body")
    return int(json_bytes)


def _arrays(inputs: Sequence[_Input], raw: memoryview) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    at = 0
    for tensor in inputs:
        if tensor.parameters.shared_memory_region is not None:
            raise RequestRefused(f"{tensor.name}: shared memory is not offered; send the data")
        size = tensor.parameters.binary_data_size
        if (size is None) == (tensor.data is None):
            raise RequestRefused(f"{tensor.name}: one of data and binary_data_size is needed")
        if size is None:
            arrays[tensor.name] = tensors.from_json(tensor.data, datatype=tensor.datatype, shape=tensor.shape)
            continue
        arrays[tensor.name] = tensors.from_bytes(raw[at : at + size], datatype=tensor.datatype, shape=tensor.shape)
        at += size
    if at != len(raw):
        raise RequestRefused(f"the binary data is {len(raw):,} bytes; the inputs describe {at:,}")
    return arrays


def _wanted(outputs: Sequence[_Output], *, binary: bool) -> tuple[tuple[str, bool], ...]:
    for output in outputs:
        if output.name not in OUTPUTS:
            raise RequestRefused(f"the model has no output {output.name!r}; it has {', '.join(OUTPUTS)}")
        if output.parameters.classification or output.parameters.shared_memory_region is not None:
            raise RequestRefused("classification and shared memory are not offered; ask for label and confidence")
    if not outputs:
        return tuple((name, binary) for name in OUTPUTS)
    asked = ((output.name, output.parameters.binary_data) for output in outputs)
    return tuple((name, binary if raw is None else raw) for name, raw in asked)


def _parameters(outcome: Outcome) -> dict[str, JsonValue]:
    return {
        "sample_id": str(outcome.sample_id),
        "answered_by": outcome.answered_by.value,
        "action": outcome.action.value,
        "reason": outcome.reason.value,
        "hardness": outcome.hardness,
        "bundle_version": outcome.bundle_version,
        "total_us": outcome.total_us,
    }
