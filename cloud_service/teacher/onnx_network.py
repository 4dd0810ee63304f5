"""A teacher in onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cloud_service import runtime
from cloud_service.teacher.choice import Device
from cloud_service.teacher.model import Array, Network, Outputs

_EMBEDDING = "embedding"
_PROVIDERS = {Device.CPU: "CPUExecutionProvider", Device.CUDA: "CUDAExecutionProvider"}


def open_onnx(file: Path, *, threads: int = 1, device: Device = Device.CPU) -> Network:
    """An ONNX file as a function of raw samples; its outputs `logits` (or the first) and `embedding` (if any).

    A file that was exported for one sample is run once for each.

    Raises whatever onnxruntime raises: the caller knows whose file it is.
    """
    session = runtime.load_session(file, threads=threads, provider=_PROVIDERS[device])
    name, shape = session.get_inputs()[0].name, session.get_inputs()[0].shape
    outputs = [output.name for output in session.get_outputs()]
    wanted = ["logits" if "logits" in outputs else outputs[0]]
    wanted += [_EMBEDDING] if _EMBEDDING in outputs and wanted != [_EMBEDDING] else []

    def run(samples: Array) -> Outputs:
        arrays = [np.asarray(array, dtype=np.float32) for array in session.run(wanted, {name: samples})]
        return Outputs(*arrays)

    def run_each(samples: Array) -> Outputs:
        given = [run(samples[index : index + 1]) for index in range(len(samples))]
        embeddings = [one.embedding for one in given if one.embedding is not None]
        return Outputs(
            np.concatenate([one.logits for one in given]), np.concatenate(embeddings) if embeddings else None
        )

    return run_each if shape[:1] == [1] else run


def has_cuda() -> bool:
    """Whether this onnxruntime can run on an NVIDIA GPU."""
    return _PROVIDERS[Device.CUDA] in runtime.providers()
