import pytest

from cloud_service.teacher.choice import Choice, Device, Measured, choose
from cloud_service.teacher.settings import Backend

TORCH = Measured(Backend.TORCH, us_per_sample={1: 160.0, 8: 150.0}, agreement=1.0)
FLOAT = Measured(Backend.ONNXRUNTIME, us_per_sample={1: 100.0, 8: 97.0}, agreement=1.0)
INT8 = Measured(Backend.INT8, us_per_sample={1: 50.0, 8: 48.0}, agreement=0.996)
BROKEN = Measured(Backend.INT8, refused="no kernel")


def test_choice_is_the_fastest_that_keeps_its_answers():
    chosen = choose([TORCH, FLOAT, INT8], max_drop=0.005, checked=1000)
    assert (chosen.backend, chosen.device, chosen.max_batch) == (Backend.INT8, Device.CPU, 8)
    assert "48 µs" in chosen.reason
    assert "0.40% of the answers differ" in chosen.reason
    assert "torch on cpu 150 µs" in chosen.reason


def test_choice_passes_over_what_changes_too_many_answers():
    chosen = choose([TORCH, FLOAT, INT8], max_drop=0.001, checked=1000)
    assert chosen.backend is Backend.ONNXRUNTIME
    assert "onnxruntime-int8 on cpu 48 µs, 0.40% differ" in chosen.reason


def test_choice_passes_over_what_does_not_run():
    chosen = choose([FLOAT, BROKEN], max_drop=0.005, checked=1000)
    assert chosen.backend is Backend.ONNXRUNTIME
    assert "does not run (no kernel)" in chosen.reason


def test_choice_without_another_says_so():
    assert choose([FLOAT], max_drop=0.0, checked=1000).reason.endswith("there was no other")


@pytest.mark.parametrize("factor", [0.97, 1.03])
def test_equally_fast_backends_are_chosen_by_what_they_cost_otherwise(factor):
    int8 = Measured(Backend.INT8, us_per_sample={1: 97.0 * factor}, agreement=1.0)
    torch = Measured(Backend.TORCH, us_per_sample={1: 97.0 * factor}, agreement=1.0)
    assert choose([torch, FLOAT, int8], max_drop=0.005, checked=1000).backend is Backend.ONNXRUNTIME
    assert choose([torch, int8], max_drop=0.005, checked=1000).backend is Backend.TORCH


def test_wish_is_granted_and_its_price_named():
    spoilt = Measured(Backend.INT8, us_per_sample={1: 50.0}, agreement=0.8)
    chosen = choose([FLOAT, spoilt], max_drop=0.005, checked=1000, wish=Backend.INT8)
    assert chosen.backend is Backend.INT8
    assert chosen.reason == "as set: 50 µs a sample, 20.00% of the answers differ; more than max_drop = 0.005"
    assert "more than" not in choose([FLOAT, INT8], max_drop=0.005, checked=1000, wish=Backend.INT8).reason


def test_wish_that_does_not_run_is_no_choice():
    assert choose([FLOAT, BROKEN], max_drop=1.0, checked=1000, wish=Backend.INT8) is None
    assert choose([], max_drop=1.0, checked=1000) is None


def test_gpu_is_taken_with_the_batches_that_pay_and_a_window():
    gpu = Measured(Backend.TORCH, Device.CUDA, {1: 900.0, 8: 120.0, 32: 40.0, 64: 38.0}, agreement=1.0)
    chosen = choose([TORCH, FLOAT, INT8, gpu], max_drop=0.005, checked=1000)
    assert (chosen.backend, chosen.device, chosen.max_batch, chosen.window_s) == (
        Backend.TORCH, Device.CUDA, 64, 0.002,
    )  # fmt: skip


@pytest.mark.parametrize(("eight", "batch"), [(80.0, 8), (109.0, 8), (120.0, 1)])
def test_batch_is_the_largest_that_costs_a_sample_no_more_than_a_tenth(eight, batch):
    measured = Measured(Backend.ONNXRUNTIME, us_per_sample={1: 100.0, 8: eight}, agreement=1.0)
    assert measured.max_batch == batch
    assert measured.best_us == measured.us_per_sample[batch]


def test_lone_samples_wait_for_nobody_on_a_cpu():
    assert Choice(Backend.ONNXRUNTIME).window_s == 0.0


def test_int8_that_few_samples_speak_for_is_taken_only_if_it_is_asked_for():
    int8 = Measured(Backend.INT8, us_per_sample={1: 10.0}, agreement=1.0)
    for max_drop, checked in ((0.005, 5), (0.005, 199), (0.0, 512)):
        chosen = choose([FLOAT, int8], max_drop=max_drop, checked=checked)
        assert chosen.backend is Backend.ONNXRUNTIME
        assert f"held against {checked} samples alone" in chosen.reason
        assert choose([FLOAT, int8], max_drop=max_drop, checked=checked, wish=Backend.INT8).backend is Backend.INT8
    assert choose([FLOAT, int8], max_drop=0.005, checked=200).backend is Backend.INT8
    assert choose([TORCH, FLOAT], max_drop=0.005, checked=5).backend is Backend.ONNXRUNTIME
