"""onnxruntime for the cloud side: telemetry off before the import, and one way to open a session."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

# onnxruntime 1.29 and later phones home on Linux unless this is set before the import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort


def load_session(
    model: Path | bytes, *, threads: int = 1, provider: str = "CPUExecutionProvider"
) -> ort.InferenceSession:
    """A session over an ONNX file or its bytes, all graph optimisations on; by default on the CPU in one thread.

    QDQ models run on integer kernels only under `ORT_ENABLE_ALL`. Whoever opens a file of unknown origin wraps what
    onnxruntime raises.
    """
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, session_options(threads), providers=[provider])


def providers() -> list[str]:
    """What this onnxruntime can run on here, by its own names."""
    found: list[str] = ort.get_available_providers()
    return found


def session_options(threads: int = 1) -> ort.SessionOptions:
    """Options of every session here: all optimisations, threads that do not spin, errors only in the log."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    # A thread that spins while it waits for the next run takes its core from the event loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def save_optimised(model: Path, target: Path) -> None:
    """Write the graph as onnxruntime will run it (extended optimisations), to see which kernels it chose."""
    options = session_options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def quantize_qdq(
    model: Path,
    target: Path,
    *,
    inputs: Sequence[NDArray[Any]],
    exclude: Sequence[str],
    only: Sequence[str] = (),
    method: str = "minmax",
    percentile: float = 99.99,
    reduce_range: bool = True,
    ranges: Path | None = None,
) -> None:
    """Static quantization to QDQ: uint8 activations, int8 weights per channel.

    Processors without VNNI add with 16-bit saturation: full-range weights cost whole points of accuracy there, hence
    seven bits.

    Args:
        model: float ONNX file with one input.
        target: where the int8 file goes.
        inputs: batches that set the activations' ranges.
        exclude: names of nodes that stay in float.
        only: names of the nodes to quantize, if not all.
        method: minmax, entropy or percentile.
        percentile: of the values that the range holds, for that method.
        reduce_range: weights in 7 bits instead of 8.
        ranges: keeps the ranges of this model and method between calls; written by the first.
    """
    from onnxruntime import quantization

    methods = {
        "minmax": quantization.CalibrationMethod.MinMax,
        "entropy": quantization.CalibrationMethod.Entropy,
        "percentile": quantization.CalibrationMethod.Percentile,
    }
    name = load_session(model).get_inputs()[0].name
    with contextlib.redirect_stdout(io.StringIO()):  # it prints; a training run's output is read by its parent
        quantization.quantize_static(
            str(model),
            str(target),
            _Batches(name, inputs),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=list(exclude),
            nodes_to_quantize=list(only),
            calibrate_method=methods[method],
            calibration_cache_path=ranges,
            extra_options={"CalibPercentile": percentile},
        )


def quantize_four_bits(model: Path, target: Path) -> None:
    """Weights of the matrix products in 4 bits, in blocks of 32 (MatMulNBits); everything else stays as it is."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(str(model), bits=4, block_size=32, is_symmetric=True)
    quantizer.process()
    quantizer.model.save_model_to_file(str(target), use_external_data_format=False)


def prepare_for_quantization(model: Path, target: Path) -> None:
    """Fold, fuse and infer shapes, as `quantize_qdq` wants its input."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(str(model), str(target))


class _Batches:
    """The calibration reader that onnxruntime asks for."""

    def __init__(self, name: str, batches: Sequence[NDArray[Any]]) -> None:
        self._feeds = iter([{name: batch} for batch in batches])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._feeds, None)
