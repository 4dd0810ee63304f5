import dataclasses

import pytest

from cloud_service.tasks.task import GateRules
from cloud_service.training.gate import ClassNumbers, Measured, Numbers, decide
from cloud_service.training.quantized import Loss

GOOD = Numbers(
    candidate=Measured(base_accuracy=0.95, field_agreement=0.96),
    incumbent=Measured(base_accuracy=0.95, field_agreement=0.70),
    base_error=0.0,
    field_error=0.0,
    model_bytes=7000,
    export_error=1e-6,
    parity_drop=0.01,
    golden_error=0.0,
    golden_tolerance=0.1,
)
NAN = float("nan")


def with_(**changes):
    return dataclasses.replace(GOOD, **changes)


def test_gate_lets_a_better_candidate_through():
    decision = decide(GOOD, GateRules(max_model_bytes=8192))
    assert decision.passed
    assert decision.reasons == ()


@pytest.mark.parametrize(
    "numbers",
    [
        with_(candidate=Measured(base_accuracy=0.94, field_agreement=0.70)),
        with_(candidate=Measured(base_accuracy=0.935, field_agreement=0.96), base_error=0.005),
        with_(candidate=Measured(base_accuracy=0.95, field_agreement=0.69), field_error=0.01),
        with_(model_bytes=8192, export_error=1e-3, parity_drop=0.05, golden_error=0.1),
        with_(loss=Loss(0.012, 0.002, changed=0.0), max_loss=0.01),
        with_(loss=Loss(-0.01, 0.0, changed=0.0), max_loss=0.0),
        with_(incumbent=None, candidate=Measured(base_accuracy=0.1, field_agreement=None)),
        with_(candidate=Measured(base_accuracy=0.95, field_agreement=None)),
        with_(incumbent=Measured(base_accuracy=0.95, field_agreement=None)),
    ],
)
def test_gate_passes_at_the_edge_of_every_rule(numbers):
    assert decide(numbers, GateRules(max_model_bytes=8192)).reasons == ()


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (
            with_(candidate=Measured(base_accuracy=0.939, field_agreement=0.96)),
            "base samples fell from 0.9500 to 0.9390",
        ),
        (
            with_(candidate=Measured(base_accuracy=0.95, field_agreement=0.699)),
            "field samples fell from 0.7000 to 0.6990",
        ),
        (with_(candidate=Measured(base_accuracy=NAN, field_agreement=0.96)), "base samples"),
        (with_(candidate=Measured(base_accuracy=0.95, field_agreement=NAN)), "field samples"),
        (with_(model_bytes=8193), "8193 bytes"),
        (with_(export_error=2e-3), "exported graph"),
        (with_(export_error=NAN), "exported graph"),
        (with_(parity_drop=0.051), "compression changes 0.0510"),
        (with_(golden_error=0.2), "golden samples"),
        (with_(loss=Loss(0.0121, 0.002, changed=0.0), max_loss=0.01), "int8 loses 0.0121"),
        (with_(loss=Loss(NAN, 0.002, changed=0.0), max_loss=0.01), "max_loss 0.0100"),
    ],
)
def test_gate_stops_a_candidate_that_breaks_a_rule_and_says_which(numbers, said):
    decision = decide(numbers, GateRules(max_model_bytes=8192))
    assert not decision.passed
    assert len(decision.reasons) == 1
    assert said in decision.reasons[0]


def test_gate_lists_every_broken_rule():
    worse = Measured(base_accuracy=0.5, field_agreement=0.5)
    assert len(decide(with_(candidate=worse, model_bytes=10**6), GateRules(max_model_bytes=8192)).reasons) == 3


def test_tolerances_are_settings():
    worse = with_(candidate=Measured(base_accuracy=0.93, field_agreement=0.96), base_error=0.005)
    assert not decide(worse, GateRules(max_model_bytes=8192)).passed
    assert decide(worse, GateRules(base_tolerance=0.02)).passed
    assert decide(worse, GateRules(noise=2.0)).passed


def test_gate_without_a_size_limit_lets_any_size_through():
    assert decide(with_(model_bytes=10**9), GateRules()).passed


def of_class(candidate, *, samples=100, incumbent=None, error=0.0):
    return with_(classes=(ClassNumbers("b", samples, candidate, incumbent, error),))


@dataclasses.dataclass(frozen=True)
class Room:
    max_model_bytes: int | None = None
    max_latency_ratio: float | None = None
    max_memory_bytes: int | None = None


@pytest.mark.parametrize(
    ("numbers", "rules"),
    [
        (of_class(0.76), GateRules(class_floor=0.8)),  # a standard error at the floor is 0.04
        (of_class(0.8), GateRules(class_floor=0.8, noise=0.0)),
        (of_class(0.0), GateRules()),
        (of_class(0.0, samples=0), GateRules()),
        (of_class(0.8, incumbent=0.9), GateRules()),
        (of_class(0.75, incumbent=0.9, error=0.05), GateRules()),
        (of_class(0.0, incumbent=0.9), GateRules(class_tolerance=None)),
        (of_class(0.0, samples=0, incumbent=0.9), GateRules()),
        (of_class(0.0, samples=9, incumbent=1.0), GateRules()),
    ],
)
def test_gate_passes_classes_at_the_edge_of_their_rules(numbers, rules):
    assert decide(numbers, rules).reasons == ()


@pytest.mark.parametrize(
    ("numbers", "rules", "said"),
    [
        (of_class(0.759), GateRules(class_floor=0.8), "class b is 0.7590; the floor is 0.8000"),
        (of_class(0.79), GateRules(class_floor=0.8, noise=0.0), "the floor is 0.8000"),
        (of_class(NAN), GateRules(class_floor=0.8), "the floor is 0.8000"),
        (of_class(0.99, samples=1000), GateRules(class_floor=1.0), "the floor is 1.0000"),
        (of_class(0.0, samples=0), GateRules(class_floor=0.8), "no held-out base sample of the class b"),
        (of_class(0.79, incumbent=0.9), GateRules(), "class b fell from 0.9000 to 0.7900"),
        (of_class(NAN, incumbent=0.9), GateRules(), "class b fell from 0.9000"),
        (of_class(0.89, incumbent=0.9), GateRules(class_tolerance=0.0), "class b fell"),
    ],
)
def test_gate_stops_a_candidate_that_forgot_a_class(numbers, rules, said):
    (reason,) = decide(numbers, rules).reasons
    assert said in reason


SMALL = Room(max_model_bytes=6999, max_latency_ratio=1.2, max_memory_bytes=1_000_000)
LARGE = Room(max_model_bytes=7000, max_latency_ratio=1.2, max_memory_bytes=1_000_000)


def test_candidate_that_fits_some_profile_passes_and_says_which():
    decision = decide(with_(latency_ratio=1.2, memory_bytes=1_000_000), GateRules(), {"cam": SMALL, "hub": LARGE})
    assert decision.passed
    assert decision.fits == ("hub",)
    assert decision.profiles == {"cam": ("model.onnx has 7,000 bytes of 6,999",), "hub": ()}


def test_candidate_that_fits_no_profile_is_stopped_with_the_reason_of_each():
    numbers = with_(latency_ratio=1.3, memory_bytes=2_000_000)
    decision = decide(numbers, GateRules(), {"cam": SMALL, "hub": LARGE})
    assert not decision.passed
    assert decision.fits == ()
    cam, hub = decision.reasons
    assert cam == (
        "it does not fit the profile cam: model.onnx has 7,000 bytes of 6,999, its latency is 1.30 × the "
        "incumbent's, of 1.20, its session takes 2,000,000 bytes of 1,000,000"
    )
    assert "profile hub: its latency" in hub


def test_latency_that_is_not_a_number_fits_nothing():
    assert not decide(with_(latency_ratio=NAN), GateRules(), {"cam": LARGE}).passed


def test_what_was_not_measured_is_over_no_limit():
    assert decide(with_(latency_ratio=None, memory_bytes=None), GateRules(), {"cam": LARGE}).fits == ("cam",)


def test_profile_without_limits_fits_everything():
    assert decide(with_(latency_ratio=99.0, memory_bytes=10**12), GateRules(), {"any": Room()}).fits == ("any",)


def test_task_without_profiles_has_none_to_fit():
    assert decide(with_(latency_ratio=99.0), GateRules()).profiles == {}
