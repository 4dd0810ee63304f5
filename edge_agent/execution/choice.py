"""Which execution provider, how many threads, which kernels: a pure decision over what was measured on this device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

# Two measurements this close are the same: repeated ones on a quiet machine differ by 2 to 4 %.
_SAME = 1.05
MAX_THREADS = 256


class Provider(StrEnum):
    """What onnxruntime can run a model on, in the order in which `auto` tries them.

    First what is a processor of its own, the most specialised first: TensorRT compiles the graph for an NVIDIA GPU and
    runs int8 there, CUDA runs it operator by operator; OpenVINO compiles for Intel's CPUs, GPUs and NPUs; QNN is
    Qualcomm's NPU, CoreML Apple's. Then what shares the CPU: XNNPACK, whose float kernels for Arm and x86 are the
    faster ones where it takes the whole graph, and onnxruntime's own, which run everything and are always there.
    """

    TENSORRT = "TensorRT"
    CUDA = "CUDA"
    OPENVINO = "OpenVINO"
    QNN = "QNN"
    COREML = "CoreML"
    XNNPACK = "XNNPACK"
    CPU = "CPU"


_THREADED = (Provider.OPENVINO, Provider.XNNPACK, Provider.CPU)


class Kernels(StrEnum):
    """How a graph's quantized parts run.

    AS_SHIPPED: int8 where the graph says so. FLOAT: the same graph, its rounding kept, its products computed in float:
    some processors are faster at that.
    """

    AS_SHIPPED = "as shipped"
    FLOAT = "float"


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to run a model; the default runs everywhere.

    Attributes:
        threads: of one inference.
    """

    provider: Provider = Provider.CPU
    threads: int = 1
    kernels: Kernels = Kernels.AS_SHIPPED

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Choice:
        """A choice from its JSON.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        threads = int(value["threads"])
        if not 1 <= threads <= MAX_THREADS:
            raise ValueError(f"{threads} threads")
        return cls(Provider(value["provider"]), threads, Kernels(value["kernels"]))

    def __str__(self) -> str:
        threads = f", {self.threads} thread{'s' if self.threads > 1 else ''}" if self.provider in _THREADED else ""
        return f"{self.provider.value}{threads}{', float kernels' if self.kernels is Kernels.FLOAT else ''}"


SAFE = Choice()


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one way of running a model did here; the numbers are None when it has a `fault`.

    Attributes:
        p50_us, p99_us: of one inference, microseconds.
        cpu_us: processor time of one inference, all threads together, those that wait in a loop as well.
        golden_difference: largest difference of a probability to the recorded one.
        agreement: fraction of equal answers.
        temperature_c: of the hottest sensor while it ran; None: no sensor.
        fault: why there are no numbers; empty: there are.
    """

    choice: Choice
    p50_us: float | None = None
    p99_us: float | None = None
    cpu_us: float | None = None
    golden_difference: float | None = None
    agreement: float | None = None
    temperature_c: float | None = None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a way of running must hold: the manifest's golden check, and the device's temperature."""

    tolerance: float
    min_agreement: float
    max_temperature_c: float


class Verdict(StrEnum):
    """What became of a candidate."""

    PASSED = "passed"
    FAULT = "fault"
    DIFFERS = "differs"
    HOT = "hot"


@dataclass(frozen=True, slots=True)
class Decision:
    """The choice, why in words, and a verdict for each measurement in its order."""

    choice: Choice
    reason: str
    verdicts: tuple[Verdict, ...]


def candidates(providers: Sequence[Provider], *, threads: int, max_threads: int, quantized: bool) -> tuple[Choice, ...]:
    """Every way worth measuring, the one that runs everywhere first.

    Args:
        providers: those that are there and wanted.
        threads: the only number of threads to try; 0: 1, 2, 3, 4, 8, 16, … up to `max_threads`.
        quantized: the graph has quantized parts, which can run in float.
    """
    numbers = [threads] if threads else _thread_counts(max_threads)
    found = [SAFE]
    for provider in providers:
        for number in numbers if provider in _THREADED else (1,):
            kernels = tuple(Kernels) if quantized and provider is Provider.CPU else (Kernels.AS_SHIPPED,)
            found += [Choice(provider, number, kind) for kind in kernels]
    return tuple(dict.fromkeys(found))


def judge(measurement: Measurement, limits: Limits) -> Verdict:
    """Hold one measurement against the limits."""
    difference, agreement = measurement.golden_difference, measurement.agreement
    if measurement.fault or measurement.p50_us is None or difference is None or agreement is None:
        return Verdict.FAULT
    if not (difference <= limits.tolerance and agreement >= limits.min_agreement):
        return Verdict.DIFFERS
    if measurement.temperature_c is not None and measurement.temperature_c > limits.max_temperature_c:
        return Verdict.HOT
    return Verdict.PASSED


def choose(measurements: Sequence[Measurement], limits: Limits) -> Decision:
    """The fastest that holds the limits; of several as fast, the one with the fewest threads.

    Where none holds them, CPU and one thread: it computes what everything else is compared with, and heats the least.
    """
    verdicts = tuple(judge(measurement, limits) for measurement in measurements)
    judged = list(zip(measurements, verdicts, strict=True))
    passed = [(m.p50_us, m) for m, verdict in judged if verdict is Verdict.PASSED and m.p50_us is not None]
    if not passed:
        return Decision(SAFE, f"{SAFE}: nothing passed{_passed_over(judged, limits)}", verdicts)
    fastest = min(p50 for p50, _ in passed)
    close = [(m.choice.threads, p50, m) for p50, m in passed if p50 <= fastest * _SAME]
    _, p50, best = min(close, key=lambda entry: entry[:2])
    reason = f"{best.choice}: {p50:.0f} µs, {_rank(len(passed))}{_against_safe(p50, best, judged)}"
    return Decision(best.choice, f"{reason}{_kernels(judged)}{_passed_over(judged, limits)}", verdicts)


def _thread_counts(most: int) -> list[int]:
    counts = [number for number in (1, 2, 3, 4) if number <= most]
    number = 8
    while number <= most:
        counts.append(number)
        number *= 2
    return counts if counts[-1:] == [most] or most < 1 else [*counts, most]


def _rank(passed: int) -> str:
    return f"the fastest of {passed} that passed" if passed > 1 else "the only one that passed"


def _against_safe(p50: float, best: Measurement, judged: Sequence[tuple[Measurement, Verdict]]) -> str:
    for measurement, _ in judged:
        if measurement.choice == SAFE != best.choice and measurement.p50_us is not None:
            return f"; {SAFE} takes {measurement.p50_us:.0f} µs ({measurement.p50_us / p50:.2f}×)"
    return ""


def _kernels(judged: Sequence[tuple[Measurement, Verdict]]) -> str:
    """How int8 and float compare on the CPU, one thread each: int8 is not faster everywhere."""
    times = {measurement.choice: measurement.p50_us for measurement, _ in judged}
    shipped, floats = times.get(SAFE), times.get(Choice(kernels=Kernels.FLOAT))
    if shipped is None or floats is None:
        return ""
    return f"; int8 kernels run at {floats / shipped:.2f}× the speed of float ones"


def _passed_over(judged: Sequence[tuple[Measurement, Verdict]], limits: Limits) -> str:
    said = [f"{m.choice} ({_why_not(m, verdict, limits)})" for m, verdict in judged if verdict is not Verdict.PASSED]
    return f"; passed over: {', '.join(said)}" if said else ""


def _why_not(measurement: Measurement, verdict: Verdict, limits: Limits) -> str:
    if verdict is Verdict.HOT:
        return f"{measurement.temperature_c:.0f} °C, {limits.max_temperature_c:g} are allowed"
    if verdict is Verdict.DIFFERS:
        return (
            f"golden samples differ by {measurement.golden_difference:.3f} and agree in {measurement.agreement:.0%}; "
            f"{limits.tolerance:g} and {limits.min_agreement:.0%} are asked for"
        )
    return measurement.fault or "it was not measured"
