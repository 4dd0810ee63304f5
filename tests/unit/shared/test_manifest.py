import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import BundleError, SampleError
from shared.manifest import (
    Deferral,
    FileEntry,
    GoldenCheck,
    Manifest,
    Outputs,
    ScoreSpread,
    TensorSpec,
    dump,
    load,
    parse,
)
from shared.uncertainty import Score

MINIMAL = Manifest(task="digits", version="v1", labels=("0", "1"), input=TensorSpec(shape=(8, 8), dtype="uint8"))
FULL = Manifest(
    task="digits",
    version="2026.11-3",
    created_at="2026-11-24T12:00:00Z",
    labels=("null", "eins"),
    input=TensorSpec(shape=(3, 4), dtype="float32"),
    outputs=Outputs(logits="y", embedding="e"),
    score=Score.MARGIN,
    temperature=1.7,
    threshold=0.4,
    golden=GoldenCheck(tolerance=0.05, min_agreement=1.0),
    files={"model.onnx": FileEntry(sha256="0" * 64, size_bytes=4_900)},
    parent="v1",
    lineage={"seed": 3, "data": ["a", None, {"b": 1.5}], "torch": "2.13.0"},
    metrics={"field": 0.95},
)
LEARNED = FULL.model_copy(
    update={
        "score": Score.DEFERRAL,
        "spread": ScoreSpread(mean=-3.0, deviation=2.0, low=-9.0, high=1.0),
        "deferral": Deferral(intercept=-2.0, coefficients={"log_odds": 0.5, "entropy": 1.5}, classes=(0.1, -0.1)),
    }
)


def altered(**fields: object) -> str:
    value = json.loads(dump(FULL))
    value.update(fields)
    return json.dumps(value)


@pytest.mark.parametrize("manifest", [MINIMAL, FULL, LEARNED], ids=["minimal", "full", "learned"])
def test_manifest_survives_its_json(manifest):
    assert parse(dump(manifest)) == manifest
    assert parse(dump(manifest).decode()) == manifest


def test_equal_manifests_are_equal_bytes_whatever_the_order_of_their_maps():
    turned = FULL.model_copy(update={"lineage": dict(reversed(FULL.lineage.items()))})
    assert dump(turned) == dump(FULL)
    assert dump(FULL).endswith(b"}\n")


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"task": "a/b"}, "task"),
        ({"version": ""}, "version"),
        ({"labels": []}, "labels"),
        ({"labels": ["a", "a"]}, "labels must differ"),
        ({"input": {"shape": [], "dtype": "uint8"}}, "input.shape"),
        ({"input": {"shape": [0], "dtype": "uint8"}}, "input.shape.0"),
        ({"input": {"shape": [1] * 8, "dtype": "uint8"}}, "input.shape"),
        ({"input": {"shape": [8], "dtype": "float64"}}, "input.dtype"),
        ({"score": "guess"}, "score"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": 1e999}, "temperature"),
        ({"threshold": float("nan")}, "threshold"),
        ({"golden": {"tolerance": 2.0}}, "golden.tolerance"),
        ({"spread": {"mean": 0.0, "deviation": 0.0, "low": 0.0, "high": 0.0}}, "spread.deviation"),
        ({"score": "deferral"}, "come together or not at all"),
        ({"deferral": {"intercept": 0.0}}, "come together or not at all"),
        ({"score": "deferral", "deferral": {"intercept": 0.0, "classes": [1.0]}}, "each of the 2 labels"),
        (
            {"score": "deferral", "deferral": {"intercept": 0.0, "coefficients": {"entropie": 1.0}}},
            r"deferral\.coefficients: .*there is no feature 'entropie'; there are max_probability, margin, entropy",
        ),
        ({"score": "deferral", "deferral": {"intercept": 0.0, "coefficients": {"entropy": 1e999}}}, "entropy"),
        ({"files": {"m": {"sha256": "xyz", "size_bytes": 1}}}, "files.m.sha256"),
        ({"files": {"m": {"sha256": "0" * 64, "size_bytes": 0}}}, "files.m.size_bytes"),
        ({"metrics": {"a": "good"}}, "metrics.a"),
        ({"metrics": {"a": float("inf")}}, "metrics.a"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_impossible_field_is_refused_by_name(fields, where):
    with pytest.raises(BundleError, match=where):
        parse(altered(**fields))


@pytest.mark.parametrize("missing", ["task", "version", "labels", "input"])
def test_missing_field_is_refused_by_name(missing):
    value = json.loads(dump(FULL))
    del value[missing]
    with pytest.raises(BundleError, match=missing):
        parse(json.dumps(value))


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_other_schema_version_is_said_to_be_one(version):
    with pytest.raises(BundleError, match="this release speaks 1"):
        parse(altered(schema_version=version))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "3", b"\xff\xfe", "[" * 100_000, '{"a": 1' + "0" * 5_000 + "}"]
)
def test_text_that_is_no_manifest_is_refused(text):
    with pytest.raises(BundleError, match=r"manifest\.json"):
        parse(text)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=4))
def test_mutated_manifest_gives_a_manifest_or_a_bundle_error(position, new):
    data = dump(FULL)
    at = position % len(data)
    try:
        manifest = parse(data[:at] + new + data[at + len(new) :])
    except BundleError:
        return
    assert isinstance(manifest, Manifest)


def test_load_reads_a_file(tmp_path):
    (tmp_path / "manifest.json").write_bytes(dump(FULL))
    assert load(tmp_path / "manifest.json") == FULL


def test_load_names_a_file_that_is_missing(tmp_path):
    with pytest.raises(BundleError, match=r"no readable manifest at .*manifest\.json: No such file"):
        load(tmp_path / "manifest.json")


def test_sample_of_the_declared_shape_and_dtype_passes():
    MINIMAL.input.check(np.zeros((8, 8), np.uint8))


@pytest.mark.parametrize(
    "tensor",
    [np.zeros((8, 7), np.uint8), np.zeros((1, 8, 8), np.uint8), np.zeros((8, 8), np.int8), np.zeros((), np.uint8)],
    ids=["shape", "batch axis", "dtype", "scalar"],
)
def test_other_sample_is_refused_with_both_sides_named(tensor):
    with pytest.raises(SampleError, match=r"the task takes \[8, 8\] and uint8"):
        MINIMAL.input.check(tensor)
