"""Chooses how a network becomes int8: the cheapest way that loses no more right answers than allowed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cloud_service.errors import ModelError
from cloud_service.tasks.compression import Calibration, Choice, QuantizeSettings
from cloud_service.training.post_training import PostTraining

log = logging.getLogger(__name__)

Judge = Callable[[Path], float]
"""Share of right answers of an ONNX file, in onnxruntime; higher is better."""

QAT = "qat"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One int8 file among those tried; `tried` as in `quantized.QuantizedModel`."""

    method: str
    file: Path
    score: float
    float_score: float
    float_layers: tuple[str, ...] = ()
    tried: dict[str, float] = field(default_factory=dict)

    @property
    def loss(self) -> float:
        """Share of right answers lost against the float file; negative where some were won."""
        return self.float_score - self.score


class Choosing:
    """Tries what the settings allow, in order of cost."""

    def __init__(self, post_training: PostTraining, settings: QuantizeSettings, judge: Judge) -> None:
        self._post_training = post_training
        self._settings = settings
        self._judge = judge
        self._float_score = 0.0
        self._tried: dict[str, float] = {}

    def run(self, float_score: float, fine_tune_quantized: Callable[[Path], None] | None) -> Candidate:
        """The first way that holds, or the best that was found."""
        self._float_score = float_score
        after_training = best = self._calibrate()
        if fine_tune_quantized is not None and self._wants_qat(best):
            best = self._train(best, fine_tune_quantized)
        if not self._holds(best) and self._settings.mixed_precision:
            best = max(best, self._let_float(after_training), key=lambda candidate: candidate.score)
        if not self._holds(best):
            log.warning("int8 loses %.4f of the answers, more than max_loss %.4f, whatever was tried",
                        best.loss, self._settings.max_loss)  # fmt: skip
        return best

    def _holds(self, candidate: Candidate) -> bool:
        return candidate.loss <= self._settings.max_loss

    def _wants_qat(self, so_far: Candidate) -> bool:
        if self._settings.qat is Choice.AUTO:
            return not self._holds(so_far)
        return self._settings.qat is Choice.ALWAYS

    def _calibrate(self) -> Candidate:
        """By each calibration; of equals the first, min-max."""
        asked = self._settings.calibration
        methods = [method for method in Calibration if asked in {method, Calibration.AUTO}]
        candidates = []
        for method in methods:
            if method is Calibration.AUTO:
                continue
            file = self._post_training.folder / f"by-{method.value}.onnx"
            self._post_training.quantize(file, method)
            candidates.append(self._judged(method.value, file))
        return max(candidates, key=lambda candidate: candidate.score)

    def _train(self, so_far: Candidate, fine_tune_quantized: Callable[[Path], None]) -> Candidate:
        """With quantization in the loop: asked always, it is taken where no worse; by need, where better."""
        file = self._post_training.folder / "by-qat.onnx"
        always = self._settings.qat is Choice.ALWAYS
        try:
            fine_tune_quantized(file)
        except ModelError as err:
            if always:
                raise
            log.warning("training with quantization is left out: %s", err)
            return so_far
        trained = self._judged(QAT, file)
        better = trained.score > so_far.score or (always and trained.score == so_far.score)
        return trained if better else so_far

    def _let_float(self, start: Candidate) -> Candidate:
        """Let the most sensitive layers be float, one more at a time, until the loss holds; else the best of these."""
        method, best = Calibration(start.method), start
        worst_first = list(self._post_training.sensitivities(method))
        most = min(int(self._settings.max_float_share * len(worst_first)), len(worst_first) - 1)
        for count in range(1, most + 1):
            layers = tuple(worst_first[:count])
            file = self._post_training.folder / f"float-{count}.onnx"
            try:
                self._post_training.quantize(file, method, float_layers=layers)
            except ModelError as err:
                log.info("with %d layers in float: %s", count, err)
                break
            candidate = self._judged(start.method, file, float_layers=layers)
            best = max(best, candidate, key=lambda one: one.score)
            if self._holds(candidate):
                return candidate
        return best

    def _judged(self, method: str, file: Path, *, float_layers: tuple[str, ...] = ()) -> Candidate:
        score = self._judge(file)
        self._tried[f"{method}-{len(float_layers)}" if float_layers else method] = score
        log.info("int8 by %s, %d layers in float: %.4f right", method, len(float_layers), score)
        return Candidate(method, file, score, self._float_score, float_layers, self._tried)
