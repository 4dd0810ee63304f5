import inspect
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from shared import codec, messages
from shared.errors import FrameError, MalformedFrame, OversizeFrame, UnknownSchema
from shared.messages import (
    BundleReference,
    Desired,
    DeviceState,
    LedgerBytes,
    Message,
    Reason,
    Receipt,
    Refusal,
    Report,
    SampleHeader,
    SpoolState,
    Target,
    TaskCounts,
    TaskState,
    Telemetry,
    UpdateFailure,
    UpdateOutcome,
    Verdict,
    decode,
    decode_sample,
    encode,
    encode_sample,
)

ID = UUID("018f0000-0000-7000-8000-000000000001")
SHA = "ab" * 32
HEADER = SampleHeader(
    sample_id=ID, task="digits", seq=7, bundle_version="v1", prediction=3, hardness=0.5, reason=Reason.HARD
)
BUNDLE = BundleReference(version="v2", url="http://10.0.0.1:8080/b", sha256=SHA, size_bytes=10)
EVERY = [
    HEADER,
    Verdict(sample_id=ID, task="digits", prediction=1, probabilities=(0.25, 0.75), teacher="cnn-1", latency_ms=3.5),
    Verdict(
        sample_id=ID, task="digits", prediction=1, probabilities=(0.7, 0.2), classes=(1, 4), teacher="t", latency_ms=0.0
    ),
    Receipt(accepted=(ID,), refused=(Refusal(message_id=ID, reason="of another shape"),)),
    Receipt(),
    DeviceState(online=False),
    DeviceState(online=True, agent_version="1", tasks={"digits": TaskState(bundle_version="v1", bundle_sha256=SHA)}),
    Telemetry(
        seq=1, uptime_s=2.0, tasks={"digits": TaskCounts(kept=5)}, ledger=LedgerBytes(), spool=SpoolState(items=1)
    ),
    Desired(revision=4, tasks={"digits": Target(bundle=BUNDLE)}),
    Report(
        report_id=ID,
        task="digits",
        version="v2",
        bundle_sha256=SHA,
        from_version="v1",
        outcome=UpdateOutcome.FAILED,
        failure=UpdateFailure.SELF_TEST,
        message="golden sample 3 differs",
    ),
]
KINDS = [each for _, each in inspect.getmembers(messages, inspect.isclass) if issubclass(each, Message)]


def changed(message: Message, **fields: object) -> bytes:
    return codec.encode({**message.model_dump(), **fields})


@pytest.mark.parametrize("message", EVERY, ids=lambda each: type(each).__name__)
def test_message_survives_the_wire(message):
    assert decode(type(message), encode(message)) == message


@pytest.mark.parametrize("message", EVERY, ids=lambda each: type(each).__name__)
def test_message_cannot_be_changed(message):
    with pytest.raises(ValueError, match="frozen"):
        message.schema_version = 2


def test_sample_survives_the_wire_with_its_tensor_as_it_was():
    tensor = np.arange(64, dtype=np.uint8).reshape(8, 8)
    header, back = decode_sample(encode_sample(HEADER, tensor))
    assert header == HEADER
    assert (back.dtype, back.tolist()) == (tensor.dtype, tensor.tolist())


@pytest.mark.parametrize("shape", [(), (0,), (3,), (5, 0, 2), (224, 224, 3)])
def test_sample_is_the_map_of_its_header_and_its_tensor(shape):
    tensor = np.ones(shape, np.uint8)
    sent = HEADER.model_copy(update={"age_ms": 7, "deadline_ms": 250})
    whole = codec.encode({"header": sent.model_dump(), "tensor": tensor})
    assert encode_sample(HEADER, tensor, age_ms=7, deadline_ms=250) == whole
    assert encode_sample(sent, tensor) == whole
    assert decode_sample(whole)[0] == sent
    assert (HEADER.age_ms, HEADER.deadline_ms) != (7, 250)


@pytest.mark.parametrize("message", EVERY, ids=lambda each: type(each).__name__)
def test_other_schema_version_is_said_to_be_one(message):
    for version in (0, 2, 10_000, -1):
        with pytest.raises(UnknownSchema, match=f"schema version {version}; this release speaks 1"):
            decode(type(message), changed(message, schema_version=version))


@pytest.mark.parametrize("version", [None, "1", True, 1.5, [1], b"1", {}])
def test_schema_version_that_is_no_number_is_malformed(version):
    with pytest.raises(MalformedFrame):
        decode(Receipt, changed(Receipt(), schema_version=version))


def test_missing_schema_version_is_malformed():
    with pytest.raises(MalformedFrame, match="without a number as its schema_version"):
        decode(Receipt, codec.encode({}))


@pytest.mark.parametrize("message", EVERY, ids=lambda each: type(each).__name__)
def test_unknown_field_is_refused_by_name(message):
    with pytest.raises(MalformedFrame, match="extra_field"):
        decode(type(message), changed(message, extra_field=1))


@pytest.mark.parametrize("message", EVERY, ids=lambda each: type(each).__name__)
def test_missing_field_is_refused_by_name(message):
    for name, field in type(message).model_fields.items():
        value = message.model_dump()
        del value[name]
        frame = codec.encode(value)
        if field.is_required():
            with pytest.raises(MalformedFrame, match=name):
                decode(type(message), frame)
        elif name != "schema_version":
            assert decode(type(message), frame) is not None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task", "a/b"),
        ("task", ""),
        ("task", "digits\n"),
        ("task", "x" * 65),
        ("bundle_version", "#"),
        ("seq", -1),
        ("prediction", -1),
        ("hardness", float("nan")),
        ("hardness", float("inf")),
        ("hardness", "hard"),
        ("inclusion_probability", 0.0),
        ("inclusion_probability", 1.01),
        ("reason", "tired"),
        ("age_ms", -1),
        ("deadline_ms", -1),
        ("deadline_ms", 1.5),
        ("training_use", 7),
        ("training_use", None),
        ("sample_id", "not a uuid"),
        ("sample_id", 3),
        ("sample_id", np.zeros(3)),
    ],
)
def test_impossible_header_is_refused_by_field(field, value):
    frame = codec.encode({"header": {**HEADER.model_dump(), field: value}, "tensor": np.zeros(1)})
    with pytest.raises(MalformedFrame, match=f"SampleHeader: {field}"):
        decode_sample(frame)


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (EVERY[1], {"probabilities": (0.5, 1.5)}),
        (EVERY[1], {"latency_ms": -1.0}),
        (EVERY[2], {"accepted": ("x",)}),
        (EVERY[2], {"refused": ({"message_id": ID, "reason": "x" * 2_001},)}),
        (EVERY[7], {"tasks": {"a/b": Target(bundle=BUNDLE).model_dump()}}),
        (EVERY[7], {"tasks": {"a": {"bundle": {**BUNDLE.model_dump(), "url": "file:///etc/passwd"}}}}),
        (EVERY[7], {"tasks": {"a": {"bundle": {**BUNDLE.model_dump(), "sha256": "AB" * 32}}}}),
        (EVERY[7], {"tasks": {"a": {"bundle": {**BUNDLE.model_dump(), "size_bytes": 0}}}}),
        (EVERY[8], {"outcome": "fine"}),
        (EVERY[8], {"seconds": float("inf")}),
    ],
)
def test_impossible_message_is_refused(message, fields):
    with pytest.raises(MalformedFrame):
        decode(type(message), changed(message, **fields))


@pytest.mark.parametrize("value", [[], 3, "text", None, np.zeros(3), b"bytes"])
def test_frame_that_is_no_map_is_refused(value):
    with pytest.raises(MalformedFrame, match="a Receipt frame must be a map"):
        decode(Receipt, codec.encode(value))


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        {"header": HEADER.model_dump()},
        {"tensor": np.zeros(1)},
        {"header": HEADER.model_dump(), "tensor": np.zeros(1), "more": 1},
        {"header": HEADER.model_dump(), "tensor": [0.0]},
        {"header": HEADER.model_dump(), "tensor": b"\0"},
        {"header": [], "tensor": np.zeros(1)},
        {"header": HEADER.model_dump(), b"tensor": np.zeros(1)},
    ],
)
def test_sample_frame_must_be_a_header_and_a_tensor(value):
    with pytest.raises(MalformedFrame):
        decode_sample(codec.encode(value))


def test_receiver_sets_the_limit_of_what_it_accepts():
    frame = encode_sample(HEADER, np.zeros(1_000, np.uint8))
    for read in (lambda: decode_sample(frame, max_bytes=1_000), lambda: decode(Receipt, frame, max_bytes=1_000)):
        with pytest.raises(OversizeFrame, match="over the limit of 1,000"):
            read()


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(EVERY),
    st.lists(st.tuples(st.integers(0, 5_000), st.binary(max_size=5), st.integers(0, 5)), min_size=1, max_size=3),
)
def test_mutated_message_gives_a_message_or_a_frame_error(message, edits):
    frame = encode(message)
    for position, new, removed in edits:
        at = position % (len(frame) + 1)
        frame = frame[:at] + new + frame[at + removed :]
    try:
        back = decode(type(message), frame)
    except FrameError:
        return
    assert decode(type(message), encode(back)) == back


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 5_000), st.binary(min_size=1, max_size=5))
def test_mutated_sample_gives_a_sample_or_a_frame_error(position, new):
    frame = encode_sample(HEADER, np.zeros((8, 8), np.float32))
    at = position % len(frame)
    try:
        header, tensor = decode_sample(frame[:at] + new + frame[at + len(new) :])
    except FrameError:
        return
    assert isinstance(header, SampleHeader)
    assert isinstance(tensor, np.ndarray)


@pytest.mark.parametrize("kind", KINDS, ids=lambda each: each.__name__)
def test_every_message_is_frozen_closed_and_versioned(kind):
    assert kind.model_config["frozen"]
    assert kind.model_config["extra"] == "forbid"
    assert kind.model_fields["schema_version"].default == messages.SCHEMA_VERSION
    assert inspect.getdoc(kind)


@pytest.mark.parametrize(
    ("prediction", "probabilities", "classes", "confidence"),
    [
        (1, (0.25, 0.75), (), 0.75),
        (4, (0.7, 0.2), (4, 1), 0.7),
        (3, (0.7, 0.2), (4, 1), 0.0),
        (2, (0.25, 0.75), (), 0.0),
    ],
)
def test_verdict_confidence_is_the_probability_of_its_answer(prediction, probabilities, classes, confidence):
    verdict = Verdict(
        sample_id=ID,
        task="digits",
        prediction=prediction,
        probabilities=probabilities,
        classes=classes,
        teacher="t",
        latency_ms=0.0,
    )
    assert verdict.confidence == confidence


def test_verdict_with_more_classes_than_probabilities_is_refused():
    with pytest.raises(ValidationError, match="1 probabilities for 2 classes"):
        Verdict(
            sample_id=ID, task="digits", prediction=1, probabilities=(0.7,), classes=(1, 2), teacher="t", latency_ms=0.0
        )
