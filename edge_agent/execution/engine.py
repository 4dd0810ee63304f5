"""The inference engine: one loaded model that answers one sample at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import ModelUnusable
from edge_agent.execution import runtime
from edge_agent.execution.choice import SAFE, Choice
from edge_agent.execution.runtime import Opener, Session
from shared import bundle
from shared.codec import MAX_FRAME_BYTES, Array
from shared.manifest import Manifest

# A sample's frame is its tensor and a header; the header stays well under this.
_HEADER_BYTES = 4096
_WARM_UP = 3


class Engine:
    """A warm model with its manifest.

    Attributes:
        manifest: what the model takes and gives.
        sha256: of the bundle file it came from; empty when that is not known.
        choice: how it runs.
    """

    def __init__(
        self, folder: Path, *, sha256: str = "", choice: Choice = SAFE, opener: Opener = runtime.open_session
    ) -> None:
        """Load an unpacked bundle and run its golden inputs once, so that the first real sample meets a warm model.

        Args:
            choice: how to run it; whoever gives another than the default has proven it in a child process.
            opener: loads the session; another one for tests.

        Raises:
            BundleError: the bundle is incomplete or altered.
            ModelUnusable: onnxruntime does not load or run the model in this way, or it does not fit its manifest.
        """
        self.manifest: Manifest = bundle.check_folder(folder)
        self.sha256 = sha256
        self.choice = choice
        self._shape, self._dtype = self.manifest.input.shape, np.dtype(self.manifest.input.dtype)
        self._logits = [self.manifest.outputs.logits]
        embedding = self.manifest.outputs.embedding
        self._both = [*self._logits, embedding] if embedding else None
        self._session = _open(folder / bundle.MODEL, choice, opener)
        self._input = self._check_signature()
        for sample in bundle.load_golden(folder, self.manifest).inputs[:_WARM_UP]:
            self.run_both(sample)

    def run(self, tensor: Array) -> NDArray[np.float32]:
        """Logits [C] of one raw sample of the manifest's shape and dtype.

        Raises:
            SampleError: another shape or dtype.
            ModelUnusable: the model failed while running.
        """
        if tensor.shape != self._shape or tensor.dtype != self._dtype:
            self.manifest.input.check(tensor)
        try:
            row: NDArray[np.float32] = self._session.run(self._logits, {self._input: tensor[np.newaxis]})[0][0]
        except Exception as err:  # onnxruntime raises a dozen private types; all mean that this model does not run
            raise self._failed(err) from err
        return row

    def run_both(self, tensor: Array) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Logits [C] and embedding [E] of one raw sample; None where the manifest names no embedding.

        Raises like `run`. Beyond `run` it costs about 1 µs.
        """
        if self._both is None:
            return self.run(tensor), None
        if tensor.shape != self._shape or tensor.dtype != self._dtype:
            self.manifest.input.check(tensor)
        try:
            logits, embedding = self._session.run(self._both, {self._input: tensor[np.newaxis]})
        except Exception as err:  # see `run`
            raise self._failed(err) from err
        return logits[0], embedding[0]

    def _failed(self, err: Exception) -> ModelUnusable:
        return ModelUnusable(f"{self.manifest.task} {self.manifest.version} failed while running: {err}")

    def _check_signature(self) -> str:
        manifest, session = self.manifest, self._session
        inputs = session.get_inputs()
        outputs = {output.name for output in session.get_outputs()}
        if len(inputs) != 1:
            raise ModelUnusable(f"the model takes {len(inputs)} inputs; a bundle's model takes one")
        for name in self._both or self._logits:
            if name not in outputs:
                raise ModelUnusable(f"the model gives {sorted(outputs)}, its manifest says {name!r}")
        sample = np.zeros(manifest.input.shape, dtype=manifest.input.dtype)
        if sample.nbytes + _HEADER_BYTES > MAX_FRAME_BYTES:
            raise ModelUnusable(f"a sample of {sample.nbytes:,} bytes does not fit a frame of {MAX_FRAME_BYTES:,}")
        try:
            logits, *rest = session.run(self._both or self._logits, {inputs[0].name: sample[np.newaxis]})
        except Exception as err:  # see `run`
            raise ModelUnusable(f"the model does not take the sample that its manifest describes: {err}") from err
        if np.shape(logits) != (1, len(manifest.labels)) or logits.dtype != np.float32:
            raise ModelUnusable(
                f"the model gives {logits.dtype} of shape {list(np.shape(logits))}; "
                f"its manifest's {len(manifest.labels)} labels need float32 [1, {len(manifest.labels)}]"
            )
        for embedding in rest:
            if np.ndim(embedding) != 2 or len(embedding) != 1 or embedding.dtype != np.float32:
                raise ModelUnusable(
                    f"the model's embedding is {embedding.dtype} of shape {list(np.shape(embedding))}; "
                    "it must be float32 [1, size]"
                )
        return str(inputs[0].name)


def _open(model: Path, choice: Choice, opener: Opener) -> Session:
    try:
        session = opener(model, choice)
    except Exception as err:  # onnxruntime raises a dozen private types; all mean that the file does not load
        raise ModelUnusable(f"onnxruntime does not load {model}: {err}") from err
    # It falls back to the CPU without a word where a provider's libraries are missing.
    runs_on = session.get_providers()[0]
    if runs_on != runtime.NAMES[choice.provider]:
        raise ModelUnusable(f"onnxruntime fell back to {runs_on}: what {choice.provider.value} needs is not there")
    return session
