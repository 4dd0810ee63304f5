"""Each against its formula written out in numpy and scipy, and in onnxruntime against torch."""

from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import torch

from cloud_service.networks.students import open_student
from cloud_service.preprocessing.log_mel import LogMel, mel_bands
from cloud_service.preprocessing.opening import open_preprocessing
from cloud_service.preprocessing.scaling import Scale, Standardise, channel_statistics
from cloud_service.tasks.task import TaskDefinition
from cloud_service.training import quantize
from cloud_service.training.evaluate import open_runner

RATE, WINDOW, HOP, MELS = 8000, 256, 128, 20


def sound(count=3, length=2000):
    time = np.arange(length) / RATE
    tones = [np.sin(2 * np.pi * (300 + 700 * i) * time) for i in range(count)]
    noise = np.random.default_rng(0).normal(0, 0.05, (count, length))
    return ((np.stack(tones) * 0.5 + noise) * 20000).astype(np.int16)


def reference(x):
    """scipy's Fourier transform of Hann-weighted frames, and triangles drawn point by point."""
    mel_of = lambda f: 2595 * np.log10(1 + f / 700)  # noqa: E731
    edges = 700 * (10 ** (np.linspace(mel_of(20), mel_of(RATE / 2), MELS + 2) / 2595) - 1)
    bins = np.arange(WINDOW // 2 + 1) * RATE / WINDOW
    bands = np.stack([np.interp(bins, edges[m : m + 3], [0, 1, 0]) for m in range(MELS)], axis=1)
    frames = np.stack([x[:, s : s + WINDOW] for s in range(0, x.shape[1] - WINDOW + 1, HOP)], axis=1) / 32768
    spectrum = scipy.fft.rfft(frames * scipy.signal.windows.hann(WINDOW, sym=False), axis=-1)
    return np.log(np.abs(spectrum) ** 2 @ bands + 1e-6)


def audio_task(**changes):
    given = {
        "name": "words", "labels": ("a", "b"), "input_shape": (2000,), "input_dtype": "int16", "input_kind": "audio",
        "input_rate_hz": RATE, "student": "edgeloop:ds-cnn", "teacher": Path("t.onnx"), "base_data": Path("b.npz"),
        "preprocessing": {"method": "log-mel", "mels": MELS, "window_ms": 32, "hop_ms": 16},
    }  # fmt: skip
    return TaskDefinition(**(given | changes))


def test_log_mel_is_its_formula():
    x = sound()
    found = open_preprocessing(audio_task())(torch.from_numpy(x)).numpy()
    assert found.shape == (3, 1 + (2000 - WINDOW) // HOP, MELS)
    np.testing.assert_allclose(found, reference(x), atol=2e-3)


def test_log_mel_in_onnxruntime_is_torch_and_stays_float_under_int8(tmp_path):
    torch.manual_seed(0)
    task, x = audio_task(), sound(count=16)
    student = open_student(task).eval()
    quantize.export_student(student, task, tmp_path / "float.onnx")
    with torch.no_grad():
        logits = student(torch.from_numpy(x))[0].numpy()
    np.testing.assert_allclose(open_runner(tmp_path / "float.onnx")(x), logits, atol=1e-3)
    quantize.quantize(tmp_path / "float.onnx", tmp_path / "int8.onnx", inputs=x)
    kernels = quantize.count_kernels(tmp_path / "int8.onnx")
    assert kernels["Conv"] + kernels["MatMul"] + kernels["FusedConv"] + kernels["FusedMatMul"] == 2
    assert kernels["QLinearConv"] == 9


def test_mel_band_without_a_frequency_is_refused():
    with pytest.raises(ValueError, match="fewer mels"):
        mel_bands(64, rate_hz=8000, mels=64, low_hz=20, high_hz=4000)


def test_sound_with_a_channel_axis_is_the_same_sound():
    x = torch.from_numpy(sound())
    module = LogMel(
        rate_hz=RATE, window=WINDOW, hop=HOP, mels=MELS, low_hz=20, high_hz=4000, full_scale=32768, floor=1e-6
    )
    assert torch.equal(module(x), module(x.unsqueeze(-1)))


def test_scale_takes_the_range_to_minus_one_and_one():
    x = torch.tensor([[0, 64, 255]], dtype=torch.uint8)
    np.testing.assert_allclose(Scale(low=0, high=255)(x), (x.numpy() - 127.5) / 127.5, atol=1e-6)


def test_standardised_base_data_has_mean_zero_and_deviation_one():
    x = np.random.default_rng(0).normal([1.0, -5.0, 100.0], [0.1, 2.0, 30.0], (50, 20, 3)).astype(np.float32)
    mean, std = channel_statistics(x, channels=3)
    found = Standardise(mean=mean.tolist(), std=std.tolist())(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, (x - x.mean((0, 1))) / x.std((0, 1)), atol=1e-4)
    np.testing.assert_allclose(found.mean((0, 1)), 0, atol=1e-4)


def test_channel_that_never_changes_becomes_zero():
    x = np.full((4, 5, 1), 7.0, np.float32)
    mean, std = channel_statistics(x, channels=1)
    assert Standardise(mean=mean.tolist(), std=std.tolist())(torch.from_numpy(x)).abs().max() == 0


def test_statistics_are_fitted_on_the_replay_set_and_kept_with_the_weights(tmp_path):
    x = np.random.default_rng(0).normal(3.0, 2.0, (20, 16, 2)).astype(np.float32)
    y = np.arange(20) % 2
    np.savez(tmp_path / "base.npz", x=x, y=y, x_eval=x + 100, y_eval=y)
    task = TaskDefinition(
        name="t", labels=("a", "b"), input_shape=(16, 2), input_dtype="float32", input_kind="window",
        teacher=Path("t.onnx"), base_data=tmp_path / "base.npz", student="edgeloop:cnn1d",
        preprocessing={"method": "standardise"},
    )  # fmt: skip
    state = open_student(task).state_dict()
    np.testing.assert_allclose(state["preprocessing.mean"], x.mean((0, 1)), rtol=1e-4)
