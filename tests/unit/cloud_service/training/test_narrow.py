import numpy as np
import onnx
import pytest
import torch
from torch import nn

from cloud_service.errors import ModelError
from cloud_service.tasks.compression import Weights
from cloud_service.tasks.networks import TinyMlp
from cloud_service.training import narrow, quantize
from cloud_service.training.evaluate import open_runner


@pytest.fixture(scope="module")
def float_file(tmp_path_factory, task):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("float") / "float.onnx"
    quantize.export_student(TinyMlp(task), task, file)
    return file


@pytest.fixture(scope="module")
def inputs():
    return np.random.default_rng(0).integers(0, 17, (64, 8, 8)).astype(np.uint8)


def test_half_precision_halves_the_file_and_runs_on_the_same_kernels(float_file, tmp_path, inputs):
    narrow.write(float_file, tmp_path / "half.onnx", weights=Weights.FP16)
    assert (tmp_path / "half.onnx").stat().st_size < 0.6 * float_file.stat().st_size
    exact, got = (open_runner(file)(inputs) for file in (float_file, tmp_path / "half.onnx"))
    assert 0 < np.abs(exact - got).max() < 1e-2
    kernels = quantize.count_kernels(tmp_path / "half.onnx")
    assert kernels["Gemm"] + kernels["FusedGemm"] == 2
    assert kernels["Cast"] == 1  # of the input; those of the weights are folded while loading


def test_four_bits_run_on_their_own_operator(float_file, tmp_path, inputs):
    narrow.write(float_file, tmp_path / "four.onnx", weights=Weights.INT4)
    assert quantize.count_kernels(tmp_path / "four.onnx")["MatMulNBits"] == 2
    assert (tmp_path / "four.onnx").stat().st_size < 0.3 * float_file.stat().st_size
    exact, got = (open_runner(file)(inputs) for file in (float_file, tmp_path / "four.onnx"))
    assert np.corrcoef(exact.ravel(), got.ravel())[0, 1] > 0.97
    for count in (1, 2):
        assert open_runner(tmp_path / "four.onnx")(inputs[:count]).shape == (count, 4)


def test_float_is_only_made_compact(float_file, tmp_path, inputs):
    narrow.write(float_file, tmp_path / "float.onnx", weights=Weights.FP32)
    assert np.allclose(open_runner(float_file)(inputs), open_runner(tmp_path / "float.onnx")(inputs), atol=1e-5)
    assert not onnx.load(tmp_path / "float.onnx").graph.value_info


class ConvolutionAlone(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.layer = nn.Conv2d(1, 4, 8)
        with torch.no_grad():
            self.layer.weight *= scale

    def forward(self, x):
        logits = self.layer(x.float().unsqueeze(1)).flatten(1)
        return logits, logits.relu()


def test_four_bits_without_a_linear_layer_say_that_there_is_no_such_operator(task, tmp_path):
    quantize.export_student(ConvolutionAlone(), task, tmp_path / "float.onnx")
    with pytest.raises(ModelError, match="onnxruntime has no 4-bit convolution: use int8"):
        narrow.write(tmp_path / "float.onnx", tmp_path / "four.onnx", weights=Weights.INT4)
    assert not (tmp_path / "four.onnx").exists()


def test_weights_beyond_half_precision_are_refused(task, tmp_path):
    quantize.export_student(ConvolutionAlone(1e7), task, tmp_path / "float.onnx")
    with pytest.raises(ModelError, match="do not fit half precision"):
        narrow.write(tmp_path / "float.onnx", tmp_path / "half.onnx", weights=Weights.FP16)
