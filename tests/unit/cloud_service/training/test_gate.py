import dataclasses

import pytest

from cloud_service.tasks.task import GateRules
from cloud_service.training.gate import Measured, Numbers, decide

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
        (with_(parity_drop=0.051), "int8 changes 0.0510"),
        (with_(golden_error=0.2), "golden samples"),
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
