"""Choosing among ways to int8, with a judge that answers from a script where that is enough."""

import tempfile
from collections import Counter

import numpy as np
import pytest
import torch

from cloud_service.errors import ModelError
from cloud_service.tasks.compression import Calibration, Choice, QuantizeSettings
from cloud_service.training import post_training, quantize
from cloud_service.training.evaluate import open_runner
from cloud_service.training.post_training import PostTraining
from shared.errors import StorageFull
from tests.sim.disk import fill, small_disk
from tests.sim.students import Residual


@pytest.fixture(scope="module")
def float_file(tmp_path_factory, task):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("float") / "float.onnx"
    quantize.export_student(Residual(), task, file)
    return file


@pytest.fixture(scope="module")
def inputs():
    return np.random.default_rng(0).integers(0, 17, (64, 8, 8)).astype(np.uint8)


class Script:
    """A judge with an answer for each file, in the order in which it is asked; the float file comes first."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def __call__(self, file):
        assert file.exists()
        return self.answers.pop(0)


def choose(float_file, tmp_path, inputs, judge, *, trained=None, **settings):
    return quantize.choose(
        float_file,
        tmp_path / "int8.onnx",
        inputs=inputs,
        judge=judge,
        settings=QuantizeSettings(**settings),
        fine_tune_quantized=trained,
    )


def test_best_calibration_is_taken_and_the_first_of_equals(float_file, tmp_path, inputs):
    chosen = choose(float_file, tmp_path, inputs, Script(0.9, 0.88, 0.91, 0.91))
    assert (chosen.method, chosen.score, chosen.float_score, chosen.holds) == ("entropy", 0.91, 0.9, True)
    assert chosen.tried == {"minmax": 0.88, "entropy": 0.91, "percentile": 0.91}
    assert chosen.float_layers == ()
    assert chosen.bytes == (tmp_path / "int8.onnx").stat().st_size
    assert Counter(chosen.kernels)["QLinearConv"] == 4
    assert Counter(chosen.kernels)["QGemm"] == 1
    assert not {"Conv", "FusedConv", "Gemm"} & chosen.kernels.keys()


def test_one_calibration_is_not_compared(float_file, tmp_path, inputs):
    assert choose(float_file, tmp_path, inputs, Script(0.9, 0.9), calibration="minmax").tried == {"minmax": 0.9}


def test_training_with_quantization_comes_where_the_loss_is_too_large(float_file, tmp_path, inputs):
    asked = []

    def trained(file):
        asked.append(file)
        file.write_bytes(float_file.read_bytes())

    one = {"calibration": "minmax", "max_loss": 0.01}
    assert choose(float_file, tmp_path, inputs, Script(0.9, 0.895), trained=trained, **one).method == "minmax"
    assert not asked
    assert choose(float_file, tmp_path, inputs, Script(0.9, 0.8, 0.9), trained=trained, **one).method == "qat"
    assert len(asked) == 1
    never = choose(
        float_file, tmp_path, inputs, Script(0.9, 0.8), trained=trained, qat="never", mixed_precision=False, **one
    )
    assert (never.method, never.holds, len(asked)) == ("minmax", False, 1)


def test_training_always_still_needs_to_do_no_worse(float_file, tmp_path, inputs):
    def trained(file):
        file.write_bytes(float_file.read_bytes())

    always = {"calibration": "minmax", "qat": Choice.ALWAYS}
    assert choose(float_file, tmp_path, inputs, Script(0.9, 0.9, 0.9), trained=trained, **always).method == "qat"
    assert choose(float_file, tmp_path, inputs, Script(0.9, 0.9, 0.89), trained=trained, **always).method == "minmax"


def test_network_that_cannot_be_trained_with_quantization_falls_back_unless_it_must(float_file, tmp_path, inputs):
    def refused(file):
        raise ModelError("no pattern")

    one = {"calibration": "minmax", "mixed_precision": False}
    fallen = choose(float_file, tmp_path, inputs, Script(0.9, 0.5), trained=refused, **one)
    assert (fallen.method, fallen.holds) == ("minmax", False)
    with pytest.raises(ModelError, match="no pattern"):
        choose(float_file, tmp_path, inputs, Script(0.9, 0.5), trained=refused, qat="always", **one)


def test_worst_layers_stay_float_until_the_loss_holds(float_file, tmp_path, inputs):
    chosen = choose(float_file, tmp_path, inputs, Script(0.9, 0.5, 0.6, 0.9), calibration="minmax", max_loss=0.01)
    assert chosen.tried == {"minmax": 0.5, "minmax-1": 0.6, "minmax-2": 0.9}
    assert chosen.holds
    with PostTraining(float_file, inputs=inputs) as tried:
        worst = list(tried.sensitivities(Calibration.MINMAX))
    assert chosen.float_layers == tuple(worst[:2])
    kernels = Counter(chosen.kernels)
    assert kernels["QLinearConv"] + kernels["QGemm"] == 3
    assert kernels["Conv"] + kernels["FusedConv"] + kernels["Gemm"] + kernels["FusedGemm"] == 2


def test_no_more_layers_stay_float_than_allowed_and_the_best_is_written(float_file, tmp_path, inputs):
    judge = Script(0.9, 0.5, 0.7, 0.6)
    chosen = choose(float_file, tmp_path, inputs, judge, calibration="minmax", max_loss=0.01, max_float_share=0.4)
    assert (chosen.score, len(chosen.float_layers), chosen.holds) == (0.7, 1, False)
    assert judge.answers == []  # two of five layers, no more


def test_layer_that_is_hard_to_round_is_the_most_sensitive(tmp_path, task, inputs):
    torch.manual_seed(0)
    student = Residual()
    with torch.no_grad():
        # One value of each of the layer's channels takes the range of 7 bits; the values that answer round to nothing.
        student.two.weight *= 0.3
        student.two.weight[:, 0, 0, 0] = 40.0
        student.one_norm.weight[0] = student.one_norm.bias[0] = 0.0
    quantize.export_student(student, task, tmp_path / "float.onnx")
    with PostTraining(tmp_path / "float.onnx", inputs=inputs) as tried:
        found = tried.sensitivities(Calibration.MINMAX)
        layers = tried.layers
    assert next(iter(found)) == layers[2]
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert len(found) == 5


@pytest.mark.parametrize("method", [Calibration.MINMAX, Calibration.ENTROPY, Calibration.PERCENTILE])
def test_each_calibration_answers_as_the_float_network(float_file, tmp_path, inputs, method):
    with PostTraining(float_file, inputs=inputs) as tried:
        tried.quantize(tmp_path / "int8.onnx", method)
    exact, rounded = (open_runner(file)(inputs) for file in (float_file, tmp_path / "int8.onnx"))
    assert np.corrcoef(exact.ravel(), rounded.ravel())[0, 1] > 0.99


def test_percentile_cuts_an_outlier_off_that_min_max_keeps(float_file, tmp_path, inputs):
    scales = {}
    for percentile in (100.0, 90.0):
        with PostTraining(float_file, inputs=inputs, percentile=percentile) as tried:
            tried.quantize(tmp_path / "int8.onnx", Calibration.PERCENTILE)
        scales[percentile] = largest_activation_scale(tmp_path / "int8.onnx")
    assert scales[90.0] < 0.8 * scales[100.0]


def test_eight_bits_use_the_range_that_seven_leave(float_file, tmp_path, inputs):
    largest = {}
    for reduce_range in (True, False):
        quantize.quantize(float_file, tmp_path / "int8.onnx", inputs=inputs, reduce_range=reduce_range)
        largest[reduce_range] = max(abs(weight.astype(int)).max() for weight in weights(tmp_path / "int8.onnx"))
    assert largest[True] <= 64
    assert 126 <= largest[False] <= 128


def test_too_few_samples_are_refused(float_file, tmp_path, inputs):
    with pytest.raises(ModelError, match="15 samples cannot set the ranges of int8: give 16 or more"):
        choose(float_file, tmp_path, inputs[:15], Script(0.9, 0.9))


def test_samples_that_are_not_finite_are_refused():
    with pytest.raises(ModelError, match="NaN or infinity"):
        post_training.check_inputs(np.full((16, 2), np.nan, np.float32))


@pytest.mark.parametrize("left", [0, 2_000, 40_000])
@pytest.mark.parametrize("full", ["temporary", "target"])
def test_full_disk_is_said_and_leaves_no_half_file(float_file, tmp_path, inputs, monkeypatch, full, left):
    if full == "target" and left > 20_000:
        left = 10_000  # the whole file would fit
    with small_disk(tmp_path / "disk", kilobytes=256) as disk:
        ballast = fill(disk, leave=left)
        target = (disk if full == "target" else tmp_path) / "int8.onnx"
        if full == "temporary":
            monkeypatch.setattr(tempfile, "tempdir", str(disk))
        with pytest.raises(StorageFull, match="free some space"):
            quantize.quantize(float_file, target, inputs=inputs)
        assert list(disk.iterdir()) == [ballast]
        assert not target.exists()


def test_disk_full_while_trying_is_said_as_that(tmp_path):
    try:
        try:
            raise OSError(28, "No space left on device")
        except OSError as err:
            raise RuntimeError("the exporter failed") from err
    except RuntimeError as err:
        with pytest.raises(StorageFull, match="free some space"):
            post_training.told_when_full(err, tmp_path / "x.onnx")
        post_training.told_when_full(ValueError("other"), tmp_path / "x.onnx")


def weights(file):
    import onnx

    return [
        onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(file).graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
    ]


def largest_activation_scale(file):
    import onnx

    model = onnx.load(file)
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return max(float(values[node.input[1]]) for node in model.graph.node if node.op_type == "QuantizeLinear")
