"""Sessions of onnxruntime; only this module knows it, and turns its telemetry off first."""

from __future__ import annotations

import os

# onnxruntime reports to its maker unless told otherwise before it is imported; a device never phones a third party.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import onnxruntime as ort

from edge_agent.execution.choice import Choice, Kernels, Provider

VERSION: str = ort.__version__

NAMES = {
    Provider.TENSORRT: "TensorrtExecutionProvider",
    Provider.CUDA: "CUDAExecutionProvider",
    Provider.OPENVINO: "OpenVINOExecutionProvider",
    Provider.QNN: "QNNExecutionProvider",
    Provider.COREML: "CoreMLExecutionProvider",
    Provider.XNNPACK: "XnnpackExecutionProvider",
    Provider.CPU: "CPUExecutionProvider",
}
# Where a provider counts its threads itself, under this name.
_OWN_THREADS = {Provider.XNNPACK: "intra_op_num_threads", Provider.OPENVINO: "num_of_threads"}
_ERRORS_ONLY = 3


class Value(Protocol):
    """A graph's input or output."""

    name: str


class Session(Protocol):
    """A loaded model, as onnxruntime's `InferenceSession` is."""

    def run(self, output_names: Sequence[str], input_feed: Mapping[str, Any]) -> list[Any]: ...

    def get_inputs(self) -> Sequence[Value]: ...

    def get_outputs(self) -> Sequence[Value]: ...

    def get_providers(self) -> Sequence[str]: ...


# Opens a model file in one way; whatever it raises means that the model does not run so.
Opener = Callable[[Path, Choice], Session]


def available() -> tuple[Provider, ...]:
    """The providers that this build of onnxruntime has, the preferred first; what they need may still be missing."""
    there = set(ort.get_available_providers())
    return tuple(provider for provider in Provider if NAMES[provider] in there)


def open_session(model: Path, choice: Choice) -> Session:
    """Load an ONNX file; operators that the provider does not take run on the CPU.

    Raises whatever onnxruntime does, one of a dozen private types: the caller knows what it means.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL  # below it, int8 runs unfused
    options.intra_op_num_threads = 1 if choice.provider in _OWN_THREADS else choice.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    if choice.kernels is Kernels.FLOAT:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    session: Session = ort.InferenceSession(str(model), options, providers=_providers(choice))
    return session


def _providers(choice: Choice) -> list[Any]:
    if choice.provider is Provider.CPU:
        return [NAMES[Provider.CPU]]
    own = _OWN_THREADS.get(choice.provider)
    wanted: Any = NAMES[choice.provider]
    if own is not None:
        wanted = (wanted, {own: str(choice.threads)})
    return [wanted, NAMES[Provider.CPU]]
