import json

import numpy as np
import pytest

from edge_agent.execution import measuring
from edge_agent.execution.choice import SAFE, Choice, Kernels, Provider
from edge_agent.execution.measuring import Instruments, measure
from tests.sim import bundles
from tests.sim.sessions import Manner, SimulatedProviders

CUDA = Choice(Provider.CUDA)


@pytest.fixture
def slot(tmp_path):
    return bundles.unpacked(tmp_path / "a")


def on(device, slot, choice=SAFE, *, seconds=1.0, limit=80.0):
    instruments = Instruments(device, device.temperature, device.clock, lambda: device.now_s * 2, device.sleep)
    return measure(slot, choice, seconds=seconds, max_temperature_c=limit, instruments=instruments)


def test_measure_gives_time_closeness_and_no_temperature_without_a_sensor(slot):
    device = SimulatedProviders({Provider.CPU: Manner(takes_s=0.002)})
    measurement = on(device, slot)
    assert measurement.choice == SAFE
    assert measurement.p50_us == pytest.approx(2000)
    assert measurement.p99_us == pytest.approx(2000)
    assert measurement.cpu_us == pytest.approx(4000)
    assert measurement.golden_difference < 1e-5
    assert (measurement.agreement, measurement.temperature_c, measurement.fault) == (1.0, None, "")


def test_measure_runs_as_long_as_it_is_told_and_a_few_times_at_least(slot):
    slow = SimulatedProviders({Provider.CPU: Manner(takes_s=10.0)})
    before_s = slow.now_s
    on(slow, slot, seconds=1.0)
    warm_ups = 1 + 3 + 16 + 5  # the signature, the engine's own, the golden samples, measuring's own
    assert slow.now_s - before_s == pytest.approx((warm_ups + 20) * 10.0)


def test_measure_sees_threads_and_kernels(slot):
    device = SimulatedProviders({Provider.CPU: Manner(takes_s=0.004, float_takes_s=0.001)})
    assert on(device, slot, Choice(threads=2)).p50_us == pytest.approx(2000)
    assert on(device, slot, Choice(kernels=Kernels.FLOAT)).p50_us == pytest.approx(1000)


def test_measure_of_a_provider_that_computes_something_else_says_how_much(slot):
    measurement = on(SimulatedProviders({Provider.CUDA: Manner(adds=50.0)}), slot, CUDA)
    assert measurement.golden_difference > 0.9
    assert measurement.agreement < 0.5
    assert measurement.fault == ""


@pytest.mark.parametrize(
    ("manner", "said"),
    [
        (Manner(refuses=True), "no CUDA device"),
        (Manner(falls_back=True), "fell back to CPUExecutionProvider"),
        (Manner(breaks=True), "the device was lost"),
        (Manner(adds=float("nan")), "its answers are no numbers"),
    ],
)
def test_measure_of_a_provider_that_does_not_work_is_a_fault(slot, manner, said):
    measurement = on(SimulatedProviders({Provider.CUDA: manner}), slot, CUDA)
    assert said in measurement.fault
    assert measurement.p50_us is None


def test_measure_keeps_the_highest_temperature(slot):
    device = SimulatedProviders({Provider.CPU: Manner(heats_c=0.01)}, temperature_c=40.0)
    measurement = on(device, slot, seconds=1.0)
    assert measurement.temperature_c == pytest.approx(device.temperature_c)
    assert measurement.temperature_c > 49.0


def test_measure_waits_until_the_device_has_cooled(slot):
    device = SimulatedProviders(temperature_c=90.0, cools_c=2.0)
    assert on(device, slot).temperature_c == pytest.approx(80.0)
    assert device.slept_s == 5.0


def test_measure_waits_half_a_minute_and_no_longer(slot):
    device = SimulatedProviders(temperature_c=90.0)
    assert on(device, slot).temperature_c == 90.0
    assert device.slept_s == 30.0


def test_main_prints_a_line_for_each_choice(slot, capsys):
    measuring.main(slot, 0.01, 200.0, [SAFE, CUDA])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Choice.parse(line["choice"]) for line in lines] == [SAFE, CUDA]
    assert np.isfinite(lines[0]["p50_us"])
    assert "does not load" in lines[1]["fault"]
