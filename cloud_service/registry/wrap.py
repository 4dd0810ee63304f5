"""Makes a bundle of any ONNX classifier and a small description, after running it once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cloud_service.errors import ModelError
from shared import bundle
from shared.bundle import BundleInfo, Golden
from shared.codec import Array
from shared.manifest import Manifest, Outputs, TensorSpec
from shared.messages import Name, Version

log = logging.getLogger(__name__)

GOLDEN_SAMPLES = 16
# Keeps log p finite where a model gives probabilities with zeros.
_SMALLEST = 1e-7


class ModelDescription(BaseModel):
    """What an ONNX file does not say of itself.

    Attributes:
        version: by default `m-` and the first 12 hex digits of the ONNX file's sha256.
        labels: by default the task's, else `0`, `1`, ….
        output: `probabilities`: a logarithm is appended to the graph, so that the bundle gives logits.
        output_name: which output counts; by default `logits`, else the first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task: Name
    version: Version | None = None
    labels: tuple[str, ...] | None = None
    input: TensorSpec
    temperature: Annotated[float, Field(gt=0)] = 1.0
    threshold: float | None = None
    output: Literal["logits", "probabilities"] = "logits"
    output_name: str | None = None


def parse_description(text: str | bytes) -> ModelDescription:
    """A description from its JSON.

    Raises:
        ModelError: not JSON, or a field is missing, wrong or unknown.
    """
    try:
        return ModelDescription.model_validate_json(text)
    except ValidationError as err:
        problems = "; ".join(f"{'.'.join(map(str, p['loc'])) or 'text'}: {p['msg']}" for p in err.errors())
        raise ModelError(f"the model's description: {problems}") from err


def wrap(
    target: Path, *, model: bytes, description: ModelDescription, labels: Sequence[str] | None, samples: Sequence[Array]
) -> BundleInfo:
    """Write a bundle file for an ONNX classifier; the same arguments give the same bytes.

    Args:
        target: the bundle file to write.
        labels: the task's, for a description without any.
        samples: raw tensors for the self-test, which every device gets to see; without any, seeded random ones in
            the dtype's range are drawn.

    Raises:
        ModelError: the model does not load or run, or its output does not fit the labels.
        StorageFull: the disk took no more.
    """
    graph, output = _graph(model, description)
    inputs = _golden_inputs(description.input, samples)
    logits = _run(graph, output, inputs)
    names = description.labels or tuple(labels or ()) or tuple(str(index) for index in range(logits.shape[1]))
    if logits.shape[1] != len(names):
        raise ModelError(f"the model gives {logits.shape[1]} values a sample, but there are {len(names)} labels")
    manifest = Manifest(
        task=description.task,
        version=description.version or f"m-{bundle.sha256(model)[:12]}",
        labels=names,
        input=description.input,
        outputs=Outputs(logits=output),
        temperature=description.temperature,
        threshold=description.threshold,
        lineage={"origin": "wrapped", "onnx_sha256": bundle.sha256(model)},
    )
    return bundle.pack(target, model=graph, description=manifest, golden=Golden(inputs, logits))


def _graph(model: bytes, description: ModelDescription) -> tuple[bytes, str]:
    """The graph that goes into the bundle, and its logits' name."""
    import onnx

    try:
        proto = onnx.load_model_from_string(model)
        names = [output.name for output in proto.graph.output]
        onnx.checker.check_model(proto)
    # protobuf and the checker raise classes of their own; each means that this is no usable ONNX file.
    except Exception as err:
        raise ModelError(f"this is not a valid ONNX file: {str(err).strip().splitlines()[0]}") from err
    wanted = description.output_name or ("logits" if "logits" in names else names[0])
    if wanted not in names:
        raise ModelError(f"the model has no output {wanted!r}; it has: {', '.join(names)}")
    if description.output == "logits":
        return model, wanted
    return _with_logarithm(proto, wanted).SerializeToString(), "logits"


def _with_logarithm(proto: Any, probabilities: str) -> Any:
    """Append logits = log(max(p, tiny)): their softmax at temperature 1 gives the probabilities back."""
    import onnx

    free = {name for node in proto.graph.node for name in node.output} | {value.name for value in proto.graph.input}
    if "logits" in free:
        raise ModelError("the model has a value named 'logits' already: describe its output as logits, or rename it")
    tiny = onnx.numpy_helper.from_array(np.array(_SMALLEST, dtype=np.float32), "edgeloop_smallest")
    proto.graph.initializer.append(tiny)
    proto.graph.node.append(onnx.helper.make_node("Max", [probabilities, tiny.name], ["edgeloop_positive"]))
    proto.graph.node.append(onnx.helper.make_node("Log", ["edgeloop_positive"], ["logits"]))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None))
    return proto


def _golden_inputs(spec: TensorSpec, samples: Sequence[Array]) -> Array:
    fitting = [s for s in samples if s.shape == spec.shape and s.dtype == np.dtype(spec.dtype)]
    if fitting:
        return np.stack(fitting[:GOLDEN_SAMPLES])
    rng = np.random.default_rng(0)
    shape = (GOLDEN_SAMPLES, *spec.shape)
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return rng.random(shape, dtype=np.float32).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def _run(graph: bytes, output: str, inputs: Array) -> NDArray[np.float32]:
    from cloud_service.runtime import load_session

    try:
        session = load_session(graph)
        name = session.get_inputs()[0].name
        logits = np.asarray(session.run([output], {name: inputs})[0])
        alone = np.asarray(session.run([output], {name: inputs[:1]})[0])
    # onnxruntime raises a class of its own for each failure; each means that a device could not run it either.
    except Exception as err:
        raise ModelError(
            f"the model does not run on {list(inputs.shape)} {inputs.dtype}: {str(err).strip().splitlines()[0]}"
        ) from err
    if logits.ndim != 2 or len(logits) != len(inputs) or len(alone) != 1 or logits.dtype != np.float32:
        raise ModelError(
            f"output {output!r} is {logits.dtype} {list(logits.shape)} for {len(inputs)} samples; "
            "a classifier gives float32 [N, labels] for any N"
        )
    if not np.isfinite(logits).all():
        raise ModelError("the model's logits are not finite on the test inputs")
    return logits
