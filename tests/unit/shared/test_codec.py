import struct
import subprocess
import sys
import time
import tracemalloc
from contextlib import suppress
from uuid import UUID

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from shared.codec import MAX_DEPTH, MAX_DIMENSIONS, decode, encode, encode_array
from shared.errors import FrameError, MalformedFrame, OversizeFrame
from tests.harness import ROOT

DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64"]
LOOP: list[object] = []
LOOP.append(LOOP)
SAMPLE = {"header": {"id": UUID(int=7), "n": -3, "score": 0.25}, "tensor": np.arange(64, dtype=np.uint8).reshape(8, 8)}

any_array = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def head(major: int, value: int) -> bytes:
    """The initial bytes of a CBOR item (RFC 8949, 3)."""
    if value < 24:
        return bytes([major << 5 | value])
    for extra, width in ((24, "B"), (25, "H"), (26, "I"), (27, "Q")):
        if value < 1 << 8 * struct.calcsize(width):
            return bytes([major << 5 | extra]) + struct.pack(f">{width}", value)
    raise ValueError(value)


def tagged(tag: int, content: bytes) -> bytes:
    return head(6, tag) + content


def byte_string(data: bytes) -> bytes:
    return head(2, len(data)) + data


def listed(*items: bytes) -> bytes:
    return head(4, len(items)) + b"".join(items)


def refused(frame: bytes) -> str:
    with pytest.raises(MalformedFrame) as caught:
        decode(frame)
    return str(caught.value)


def test_array_is_the_bytes_of_rfc_8746():
    frame = encode(np.array([[2, 4, 8], [4, 16, 256]], dtype="<u2"))
    assert frame.hex() == "d828" + "82" + "820203" + "d845" + "4c" + "020004000800040010000001"


@given(any_array)
def test_array_survives_the_round_trip(array):
    back = decode(encode(array))
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes() == array.tobytes()


@given(plain)
def test_plain_value_survives_the_round_trip(value):
    assert decode(encode(value)) == value


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["<", ">"])
def test_byte_order_of_the_sender_does_not_matter(dtype, order):
    array = np.array([1, 2, 100], dtype=np.dtype(dtype).newbyteorder(order))
    back = decode(encode(array))
    assert back.dtype == np.dtype(dtype)
    assert back.tolist() == [1, 2, 100]


@pytest.mark.parametrize(
    "array",
    [
        np.array(1.5, np.float32),
        np.zeros((0,), np.int16),
        np.zeros((3, 0, 2), np.float64),
        np.arange(24, dtype=np.int32).reshape(2, 3, 4).transpose(2, 0, 1),
        np.arange(20, dtype=np.uint8)[::-2],
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        np.arange(2**MAX_DIMENSIONS, dtype=np.uint8).reshape((2,) * MAX_DIMENSIONS),
        np.array([np.nan, np.inf, -0.0], np.float16),
        np.broadcast_to(np.int8(5), (3, 3)),
    ],
    ids=["0-d", "empty", "empty-axis", "transposed", "strided", "fortran", "8-d", "not-finite", "broadcast"],
)
def test_unusual_array_survives_the_round_trip(array):
    back = decode(encode(array))
    assert back.shape == array.shape
    assert np.array_equal(back, array, equal_nan=array.dtype.kind == "f")


@given(any_array)
def test_array_in_two_parts_is_the_same_frame(array):
    first, elements = encode_array(array)
    assert first + bytes(elements) == encode(array)


@pytest.mark.parametrize("size", [0, 1, 23, 24, 255, 256, 65_535, 65_536, 70_000])
def test_array_of_any_length_in_two_parts_is_the_same_frame(size):
    array = np.zeros(size, np.uint8)
    assert b"".join(encode_array(array)) == encode(array)


@pytest.mark.parametrize("array", [np.arange(6, dtype=">u2"), np.arange(24, dtype=np.uint8).reshape(4, 6).T[::2]])
def test_array_in_two_parts_of_another_order_is_the_same_frame(array):
    assert b"".join(encode_array(array)) == encode(array)


def test_array_in_two_parts_copies_no_element():
    array = np.arange(64, dtype=np.uint16).reshape(8, 8)
    _, elements = encode_array(array)
    array[0, 0] = 0x0102
    assert bytes(elements[:2]) == b"\x02\x01"


def test_array_without_a_place_in_the_contract_has_no_parts():
    with pytest.raises(TypeError, match="dtype <U1"):
        encode_array(np.array(["a"]))


def test_decoded_array_is_read_only_and_no_second_copy():
    back = decode(encode(np.arange(5)))
    assert not back.flags.writeable
    assert not back.flags.owndata


def test_numpy_scalars_and_arrays_inside_maps_travel():
    back = decode(encode({"a": np.float32(0.5), "b": [np.int64(3), np.ones(2)], "id": UUID(int=1)}))
    assert (back["a"], back["b"][0], back["id"]) == (0.5, 3, UUID(int=1))
    assert back["b"][1].tolist() == [1.0, 1.0]


def test_uuid_of_a_database_driver_is_a_uuid():
    class DriversOwn(UUID):
        pass

    assert encode({"id": DriversOwn(int=7)}) == encode({"id": UUID(int=7)})


def test_array_costs_its_own_bytes_and_little_more():
    assert len(encode(np.zeros((224, 224, 3), np.uint8))) <= 224 * 224 * 3 + 20


@pytest.mark.parametrize(
    "value",
    [
        object(),
        np.array(["a"]),
        np.array([True]),
        np.array([1j]),
        np.array([object()]),
        np.zeros(2, ">c8"),
        [print],
        LOOP,
    ],
    ids=["object", "strings", "bools", "complex", "objects", "complex-big", "function", "holds itself"],
)
def test_value_without_a_place_in_the_contract_cannot_be_sent(value):
    with pytest.raises(TypeError):
        encode(value)


def test_frame_over_the_limit_is_refused_before_it_is_decoded():
    with pytest.raises(OversizeFrame, match="a frame of 11 bytes is over the limit of 10"):
        decode(b"\xff" * 11, max_bytes=10)
    assert decode(b"\x01", max_bytes=1) == 1


@pytest.mark.parametrize("tail", [b"\0", b"\xff", bytes(10_000)])
def test_bytes_after_the_end_are_refused(tail):
    assert "ends after" in refused(encode(SAMPLE) + tail)


def test_every_truncation_is_refused():
    frame = encode(SAMPLE)
    for length in range(len(frame)):
        refused(frame[:length])


def test_nesting_has_a_limit():
    assert decode(b"\x81" * (MAX_DEPTH - 1) + b"\0")
    refused(b"\x81" * 100_000 + b"\0")
    refused(tagged(40, b"") * 100_000)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(head(2, 2**60), id="byte string of an exabyte"),
        pytest.param(head(3, 2**63), id="text of more"),
        pytest.param(head(4, 2**40), id="list of a tera of items"),
        pytest.param(head(5, 2**61), id="map of more"),
        pytest.param(tagged(64, head(2, 2**50)), id="typed array of a petabyte"),
        pytest.param(tagged(40, listed(listed(head(0, 2**62)), tagged(64, byte_string(b"1")))), id="long axis"),
        pytest.param(
            tagged(40, listed(listed(*[head(0, 2**63)] * 8), tagged(64, byte_string(b"1")))), id="8 long axes"
        ),
        pytest.param(
            tagged(40, listed(listed(head(0, 0), head(0, 2**63)), tagged(64, byte_string(b"")))), id="0 × long"
        ),
        pytest.param(tagged(40, listed(listed(*[head(0, 1)] * 5_000), tagged(64, byte_string(b"1")))), id="5,000 axes"),
    ],
)
def test_huge_claim_is_refused_at_once_and_without_memory(frame):
    tracemalloc.start()
    try:
        started = time.perf_counter()
        refused(frame)
        seconds = time.perf_counter() - started
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seconds < 0.5
    assert peak < 2_000_000


@pytest.mark.parametrize(
    "content",
    [
        b"\x01",
        listed(),
        listed(listed(head(0, 1))),
        listed(listed(head(0, 1)), byte_string(b"1")),
        listed(head(0, 1), tagged(64, byte_string(b"1"))),
        listed(listed(head(0, 2)), tagged(64, byte_string(b"1"))),
        listed(listed(head(1, 0)), tagged(64, byte_string(b"1"))),
        listed(listed(b"\xf5"), tagged(64, byte_string(b"1"))),
        listed(listed(b"\xf9\x3c\x00"), tagged(64, byte_string(b"1"))),
        listed(listed(head(0, 1)), b"\xf6"),
        listed(
            listed(head(0, 1), head(0, 1)), tagged(40, listed(listed(head(0, 1), head(0, 1)), tagged(64, b"\x41a")))
        ),
    ],
)
def test_malformed_array_is_refused(content):
    refused(tagged(40, content))


@pytest.mark.parametrize("content", [byte_string(b"123"), head(0, 5), head(3, 4) + b"text", listed()])
def test_typed_array_must_hold_whole_elements(content):
    refused(tagged(85, content))


def test_only_tags_of_the_contract_are_decoded():
    # RFC 8746 has more element types than the contract; cbor2 decodes two dozen tags by itself, some at great cost.
    ours = {37, 40, 64, 69, 70, 71, 72, 77, 78, 79, 84, 85, 86}
    contents = [byte_string(bytes(16)), head(0, 0), head(3, 1) + b"1", listed(head(0, 1), head(0, 1))]
    contents.append(listed(listed(head(0, 16)), tagged(64, byte_string(bytes(16)))))
    for tag in [*range(1_100), 43_000, 55_799, 55_800, 65_535, 2**32 + 40, 2**64 - 1]:
        accepted = 0
        for content in contents:
            try:
                decode(tagged(tag, content))
                accepted += 1
            except MalformedFrame:
                pass
        assert bool(accepted) == (tag in ours), tag


def test_costly_numbers_are_refused_at_once():
    million = tagged(2, byte_string(b"\xa5" * 1_000_000))
    started = time.perf_counter()
    for frame in (million, tagged(4, listed(head(0, 5), million)), tagged(30, listed(million, million))):
        assert "not part of the contract" in refused(frame)
    assert time.perf_counter() - started < 1.0


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xff",
        b"\xa2\x61a\x01\x61a\x02",
        b"\xa1\x81\x01\x01",
        b"\xa1\x01\x01",
        b"\xa1" + tagged(64, byte_string(b"1")) + b"\x01",
        b"\x62\xff\xfe",
        tagged(37, byte_string(b"short")),
        b"\x1c",
    ],
    ids=["nothing", "break", "key twice", "list key", "number key", "array key", "no utf-8", "bad uuid", "reserved"],
)
def test_frame_that_is_not_of_the_contract_is_refused(frame):
    assert "is not valid" in refused(frame)


@settings(deadline=None, max_examples=400)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_frame_error(frame):
    with suppress(FrameError):
        decode(frame)


@settings(deadline=None, max_examples=400)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=6), st.integers(0, 6)), min_size=1, max_size=4))
def test_mutated_frame_gives_a_value_or_a_frame_error(edits):
    frame = encode(SAMPLE)
    for position, new, removed in edits:
        at = position % (len(frame) + 1)
        frame = frame[:at] + new + frame[at + removed :]
    try:
        value = decode(frame)
    except FrameError:
        return
    assert not isinstance(value, cbor2.CBORTag)


def test_first_sample_imports_nothing():
    """Somebody waits for it, and an import waits for the disk."""
    code = (
        "import sys; from uuid import UUID; import numpy as np; from shared import codec; before = set(sys.modules)\n"
        "frame = codec.encode({'id': UUID(int=7), 'tensor': np.zeros(3), 'score': 0.5, 'reason': 'hard', 'n': None})\n"
        "codec.decode(frame); print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
