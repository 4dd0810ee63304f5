"""The inference engine: one loaded model that answers one sample at a time; only this module knows onnxruntime."""

from __future__ import annotations

import os

# onnxruntime reports to its maker unless told otherwise before it is imported; a device never phones a third party.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge_agent.errors import ModelUnusable
from shared import bundle
from shared.codec import MAX_FRAME_BYTES, Array
from shared.manifest import Manifest

# A sample's frame is its tensor and a header; the header stays well under this.
_HEADER_BYTES = 4096
_ERRORS_ONLY = 3


class Engine:
    """A warm model with its manifest.

    Attributes:
        manifest: what the model takes and gives.
        sha256: of the bundle file it came from; empty when that is not known.
    """

    def __init__(self, folder: Path, *, sha256: str = "") -> None:
        """Load an unpacked bundle and run its golden inputs once, so that the first real sample meets a warm model.

        Raises:
            BundleError: the bundle is incomplete or altered.
            ModelUnusable: onnxruntime does not load or run the model, or it does not fit its manifest.
        """
        self.manifest: Manifest = bundle.check_folder(folder)
        self.sha256 = sha256
        self._session = _load(folder / bundle.MODEL)
        self._input = self._check_signature()
        self._logits_only = [self.manifest.outputs.logits]
        for sample in bundle.load_golden(folder, self.manifest).inputs[:3]:
            self.run(sample)

    def run(self, tensor: Array) -> NDArray[np.float32]:
        """Logits [C] of one raw sample of the manifest's shape and dtype.

        Raises:
            SampleError: another shape or dtype.
            ModelUnusable: the model failed while running.
        """
        self.manifest.input.check(tensor)
        try:
            (logits,) = self._session.run(self._logits_only, {self._input: tensor[np.newaxis]})
        except Exception as err:  # onnxruntime raises a dozen private types; all mean that this model does not run
            raise ModelUnusable(f"{self.manifest.task} {self.manifest.version} failed while running: {err}") from err
        row: NDArray[np.float32] = logits[0]
        return row

    def _check_signature(self) -> str:
        manifest, session = self.manifest, self._session
        inputs = session.get_inputs()
        outputs = {output.name for output in session.get_outputs()}
        if len(inputs) != 1:
            raise ModelUnusable(f"the model takes {len(inputs)} inputs; a bundle's model takes one")
        if manifest.outputs.logits not in outputs:
            raise ModelUnusable(f"the model gives {sorted(outputs)}, its manifest says {manifest.outputs.logits!r}")
        sample = np.zeros(manifest.input.shape, dtype=manifest.input.dtype)
        if sample.nbytes + _HEADER_BYTES > MAX_FRAME_BYTES:
            raise ModelUnusable(f"a sample of {sample.nbytes:,} bytes does not fit a frame of {MAX_FRAME_BYTES:,}")
        try:
            (logits,) = session.run([manifest.outputs.logits], {inputs[0].name: sample[np.newaxis]})
        except Exception as err:  # see `run`
            raise ModelUnusable(f"the model does not take the sample that its manifest describes: {err}") from err
        if np.shape(logits) != (1, len(manifest.labels)) or logits.dtype != np.float32:
            raise ModelUnusable(
                f"the model gives {logits.dtype} of shape {list(np.shape(logits))}; "
                f"its manifest's {len(manifest.labels)} labels need float32 [1, {len(manifest.labels)}]"
            )
        return str(inputs[0].name)


def _load(model: Path) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    try:
        return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as err:  # onnxruntime raises a dozen private types; all mean that the file does not load
        raise ModelUnusable(f"onnxruntime does not load {model}: {err}") from err
