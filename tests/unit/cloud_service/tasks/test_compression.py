import pytest
from pydantic import ValidationError

from cloud_service.tasks.compression import Choice, PruneSettings, Variant, Weights


def test_default_variant_is_int8_in_seven_bits_unpruned():
    variant = Variant()
    assert (variant.name, variant.weights, variant.prune) == ("int8", Weights.INT8, None)
    assert variant.quantize.reduce_range is Choice.ALWAYS


def test_quantize_settings_are_for_int8_alone():
    with pytest.raises(ValidationError, match="quantize is for weights = 'int8'"):
        Variant.model_validate({"name": "half", "weights": "fp16", "quantize": {"qat": "always"}})


def test_shares_and_unknown_keys_are_refused():
    for wrong in ({"macs_left": 0.0}, {"macs_left": 1.1}, {"rounds": 0}, {"macs": 0.5}):
        with pytest.raises(ValidationError):
            PruneSettings.model_validate(wrong)


@pytest.mark.parametrize("variant", [Variant(name="small", prune=PruneSettings(macs_left=0.3)),
                                     Variant(name="half", weights=Weights.FP16)])  # fmt: skip
def test_variant_round_trips_through_json(variant):
    # A training request carries the task, with every default written out, to the training process.
    assert Variant.model_validate_json(variant.model_dump_json()) == variant
