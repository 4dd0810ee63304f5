import pytest

from edge_agent.execution.choice import (
    SAFE,
    Choice,
    Kernels,
    Limits,
    Measurement,
    Provider,
    Verdict,
    candidates,
    choose,
    judge,
)

LIMITS = Limits(tolerance=0.1, min_agreement=0.9, max_temperature_c=80.0)
FLOAT = Choice(kernels=Kernels.FLOAT)
CUDA = Choice(Provider.CUDA)


def measured(choice=SAFE, p50=100.0, *, difference=0.01, agreement=1.0, temperature=None):
    return Measurement(choice, p50, p50 * 2, p50, difference, agreement, temperature)


def threads(number, provider=Provider.CPU):
    return Choice(provider, number)


def test_providers_stand_in_the_stated_order():
    assert [p.value for p in Provider] == ["TensorRT", "CUDA", "OpenVINO", "QNN", "CoreML", "XNNPACK", "CPU"]


@pytest.mark.parametrize(
    ("most", "counts"),
    [
        (1, [1]),
        (2, [1, 2]),
        (4, [1, 2, 3, 4]),
        (6, [1, 2, 3, 4, 6]),
        (8, [1, 2, 3, 4, 8]),
        (20, [1, 2, 3, 4, 8, 16, 20]),
    ],
)
def test_candidates_try_each_small_number_of_threads_then_double(most, counts):
    found = candidates([Provider.CPU], threads=0, max_threads=most, quantized=False)
    assert [c.threads for c in found] == counts
    assert set(found) == {threads(n) for n in counts}


def test_candidates_begin_with_the_one_that_runs_everywhere_and_name_none_twice():
    found = candidates([Provider.CUDA, Provider.XNNPACK, Provider.CPU], threads=0, max_threads=2, quantized=True)
    assert found == (
        SAFE,
        CUDA,
        threads(1, Provider.XNNPACK),
        threads(2, Provider.XNNPACK),
        FLOAT,
        threads(2),
        Choice(threads=2, kernels=Kernels.FLOAT),
    )


def test_candidates_with_threads_fixed_try_no_others_but_the_safe_one():
    assert candidates([Provider.CPU], threads=3, max_threads=8, quantized=False) == (SAFE, threads(3))


@pytest.mark.parametrize(
    ("measurement", "verdict"),
    [
        (measured(), Verdict.PASSED),
        (measured(difference=0.1, agreement=0.9, temperature=80.0), Verdict.PASSED),
        (measured(difference=0.11), Verdict.DIFFERS),
        (measured(agreement=0.89), Verdict.DIFFERS),
        (measured(difference=float("nan")), Verdict.DIFFERS),
        (measured(temperature=80.1), Verdict.HOT),
        (Measurement(SAFE, fault="no driver"), Verdict.FAULT),
        (Measurement(SAFE), Verdict.FAULT),
    ],
)
def test_judge(measurement, verdict):
    assert judge(measurement, LIMITS) is verdict


def test_choose_takes_the_fastest_and_says_against_what():
    decision = choose([measured(), measured(threads(2), 60.0), measured(threads(3), 70.0)], LIMITS)
    assert decision.choice == threads(2)
    assert decision.reason == (
        "CPU, 2 threads: 60 µs, the fastest of 3 that passed; CPU, 1 thread takes 100 µs (1.67×)"
    )
    assert decision.verdicts == (Verdict.PASSED,) * 3


def test_choose_takes_fewer_threads_where_more_gain_nothing():
    assert choose([measured(), measured(threads(2), 96.0)], LIMITS).choice == SAFE
    assert choose([measured(), measured(threads(2), 94.0)], LIMITS).choice == threads(2)


def test_choose_takes_the_faster_of_two_with_as_many_threads():
    assert choose([measured(p50=100), measured(FLOAT, 98.0)], LIMITS).choice == FLOAT


def test_choose_passes_over_the_fast_one_that_computes_something_else():
    decision = choose([measured(), measured(CUDA, 10.0, difference=0.4, agreement=0.5)], LIMITS)
    assert decision.choice == SAFE
    assert decision.verdicts == (Verdict.PASSED, Verdict.DIFFERS)
    assert decision.reason == (
        "CPU, 1 thread: 100 µs, the only one that passed; passed over: CUDA (golden samples differ by 0.400 and agree "
        "in 50%; 0.1 and 90% are asked for)"
    )


def test_choose_passes_over_the_fast_one_that_heats_the_device():
    decision = choose([measured(temperature=60), measured(threads(4), 30.0, temperature=91.4)], LIMITS)
    assert decision.choice == SAFE
    assert "passed over: CPU, 4 threads (91 °C, 80 are allowed)" in decision.reason


def test_choose_says_that_int8_is_slower_here():
    decision = choose([measured(p50=100), measured(FLOAT, 84.0)], LIMITS)
    assert decision.choice == FLOAT
    assert decision.reason.startswith(
        "CPU, 1 thread, float kernels: 84 µs, the fastest of 2 that passed; CPU, 1 thread"
    )
    assert "int8 kernels run at 0.84× the speed of float ones" in decision.reason


def test_choose_with_nothing_that_passed_takes_the_safe_one():
    faulty = [Measurement(CUDA, fault="no device"), Measurement(threads(2)), measured(difference=1.0)]
    decision = choose(faulty, LIMITS)
    assert decision.choice == SAFE
    assert decision.reason.startswith(
        "CPU, 1 thread: nothing passed; passed over: CUDA (no device), CPU, 2 threads (it"
    )
    assert choose([], LIMITS).choice == SAFE


def test_choice_comes_back_from_its_json():
    choice = Choice(Provider.XNNPACK, 4, Kernels.FLOAT)
    assert Choice.parse({"provider": "XNNPACK", "threads": 4, "kernels": "float"}) == choice
    assert str(choice) == "XNNPACK, 4 threads, float kernels"


@pytest.mark.parametrize("change", [{"threads": 0}, {"threads": 257}, {"provider": "TPU"}, {"kernels": "int4"}])
def test_choice_refuses_what_is_none(change):
    with pytest.raises(ValueError):
        Choice.parse({"provider": "CPU", "threads": 1, "kernels": "float", **change})
