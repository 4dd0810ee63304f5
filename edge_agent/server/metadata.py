"""What the server says of itself and of its models: the protocol's metadata, and Triton's model configuration. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import JsonValue

from edge_agent.outcomes import Outcome
from edge_agent.server import tensors
from shared import __version__
from shared.manifest import Manifest

INPUT = "input"
PLATFORM = "onnxruntime_onnx"
EXTENSIONS = ("binary_tensor_data", "model_configuration")

# Every output is one value a sample, shape [N].
OUTPUTS: Mapping[str, tuple[str, Callable[[Outcome], Any]]] = {
    "label": (tensors.STRINGS, lambda outcome: outcome.label),
    "prediction": ("INT32", lambda outcome: outcome.prediction),
    "confidence": ("FP32", lambda outcome: outcome.confidence),
    "hardness": ("FP32", lambda outcome: outcome.hardness),
    "answered_by": (tensors.STRINGS, lambda outcome: outcome.answered_by.value),
    "action": (tensors.STRINGS, lambda outcome: outcome.action.value),
    "reason": (tensors.STRINGS, lambda outcome: outcome.reason.value),
    "sample_id": (tensors.STRINGS, lambda outcome: str(outcome.sample_id)),
}


def server_metadata() -> dict[str, JsonValue]:
    """`GET /v2`."""
    return {"name": "edgeloop", "version": __version__, "extensions": list(EXTENSIONS)}


def model_metadata(name: str, manifest: Manifest) -> dict[str, JsonValue]:
    """`GET /v2/models/{name}`."""
    return {
        "name": name,
        "versions": [manifest.version],
        "platform": PLATFORM,
        "inputs": [
            {"name": INPUT, "datatype": tensors.datatype_of(manifest.input.dtype), "shape": [-1, *manifest.input.shape]}
        ],
        "outputs": [{"name": output, "datatype": kind, "shape": [-1]} for output, (kind, _) in OUTPUTS.items()],
    }


def model_config(name: str, manifest: Manifest, *, max_batch: int) -> dict[str, JsonValue]:
    """`GET /v2/models/{name}/config`, of Triton's model configuration extension."""

    def described(tensor: str, datatype: str, dims: Sequence[int]) -> JsonValue:
        kind = "TYPE_STRING" if datatype == tensors.STRINGS else f"TYPE_{datatype}"
        return {"name": tensor, "data_type": kind, "dims": list(dims)}

    return {
        "name": name,
        "platform": PLATFORM,
        "max_batch_size": max_batch,
        "input": [described(INPUT, tensors.datatype_of(manifest.input.dtype), manifest.input.shape)],
        # A batch of N gives [N]: beside the batch axis an output has no dimension.
        "output": [described(output, kind, ()) for output, (kind, _) in OUTPUTS.items()],
    }
