import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge_agent.decoding import preprocess
from edge_agent.decoding.preprocess import Form
from shared import codec
from shared.errors import SampleError
from shared.manifest import TensorSpec

DTYPES = ["uint8", "int8", "uint16", "int16", "int32", "float16", "float32"]


def spec(*shape, dtype="uint8"):
    return TensorSpec(shape=shape, dtype=dtype)


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def png(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def same(tensor, array, dtype):
    assert str(tensor.dtype) == dtype
    assert tensor.flags.c_contiguous
    np.testing.assert_array_equal(tensor, array)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", [Form.RAW, Form.NPY, Form.JSON, Form.CBOR])
def test_every_form_carries_every_dtype(form, dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    body = {
        Form.RAW: array.astype(array.dtype.newbyteorder("<")).tobytes(),
        Form.NPY: npy(array),
        Form.JSON: json.dumps(array.tolist()).encode(),
        Form.CBOR: codec.encode(array),
    }[form]
    same(preprocess.decode(body, form, spec(2, 3, dtype=dtype)), array, dtype)


def test_image_becomes_pixels_of_the_tasks_dtype():
    array = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    for dtype in ("uint8", "float32", "int16", "float16"):
        same(preprocess.decode(png(array), Form.IMAGE, spec(2, 4, 3, dtype=dtype)), array, dtype)


@pytest.mark.parametrize(
    ("body", "shape"),
    [("[[1, 2], [3, 4]]", (2, 2)), ("[1, 2, 3, 4]", (2, 2)), ("21.5", (1,)), ("[21.5]", (1, 1)), (" 7 \n", (1,))],
)
def test_written_numbers_may_be_nested_or_flat(body, shape):
    tensor = preprocess.decode(body.encode(), Form.JSON, spec(*shape, dtype="float32"))
    np.testing.assert_array_equal(tensor.ravel(), np.array(json.loads(body), np.float32).ravel())
    assert tensor.shape == shape


def test_written_numbers_may_come_as_cbor_lists_or_flat_typed_arrays():
    for value in ([[1, 2], [3, 4]], [1, 2, 3, 4], np.array([1, 2, 3, 4], np.uint8)):
        same(preprocess.decode(codec.encode(value), Form.CBOR, spec(2, 2)), [[1, 2], [3, 4]], "uint8")


@pytest.mark.parametrize("form", [Form.JSON, Form.CBOR])
def test_fields_are_taken_in_their_order(form):
    value = {"humidity": 40, "air": {"temperature": 21.5, "co2": 600}, "name": "cellar"}
    body = json.dumps(value).encode() if form is Form.JSON else codec.encode(value)
    fields = ("air.temperature", "humidity")
    same(preprocess.decode(body, form, spec(2, dtype="float32"), fields=fields), [21.5, 40], "float32")


@given(number=st.floats(-1e6, 1e6) | st.integers(-(2**70), 2**70), dtype=st.sampled_from(DTYPES))
def test_written_number_is_held_or_refused_never_changed(number, dtype):
    try:
        tensor = preprocess.decode(json.dumps(number).encode(), Form.JSON, spec(1, dtype=dtype))
    except SampleError:
        return
    if dtype.startswith("float"):
        assert tensor[0] == np.asarray(number, np.float64).astype(dtype)
        assert np.isfinite(tensor[0])
    else:
        assert int(tensor[0]) == number


@given(source=st.sampled_from([*DTYPES, "float64", "int64", "uint32"]), target=st.sampled_from(DTYPES))
def test_dtype_is_changed_only_where_no_value_is_lost(source, target):
    limits = np.iinfo(source) if np.dtype(source).kind in "iu" else np.finfo(source)
    array = np.array([limits.min, limits.max], source)
    try:
        tensor = preprocess.lossless(array, spec(2, dtype=target))
    except SampleError:
        return
    assert [float(value) for value in tensor] == [float(value) for value in array]


def test_byte_order_and_fortran_order_are_put_right():
    array = np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3))
    same(preprocess.decode(npy(array), Form.NPY, spec(2, 3, dtype="int16")), [[0, 1, 2], [3, 4, 5]], "int16")


@pytest.mark.parametrize(
    ("body", "form", "task", "words"),
    [
        (b"123", Form.RAW, spec(4), r"raw of 3 bytes; the task takes uint8 \[4\], which is 4"),
        (b"12345", Form.RAW, spec(4), r"raw of 5 bytes; the task takes uint8 \[4\], at most 4 bytes"),
        (npy(np.zeros((3, 2), np.uint8)), Form.NPY, spec(2, 3), r"shape \[3, 2\]; the task takes uint8 \[2, 3\]"),
        (npy(np.zeros(3)), Form.NPY, spec(3, dtype="float32"), "float64, which does not fit without loss"),
        (npy(np.zeros(3, np.uint8))[:-1], Form.NPY, spec(3), "npy of 130 bytes; its header asks for 131"),
        (npy(np.zeros(3, np.uint8)) + b"x", Form.NPY, spec(3), "npy of 132 bytes; its header asks for 131"),
        (b"x", Form.NPY, spec(3), "not numpy's npy"),
        (b"{}", Form.JSON, spec(3), "no number or list of numbers"),
        (b'["1", "2", "3"]', Form.JSON, spec(3), "no number or list of numbers"),
        (b"[1, null, 3]", Form.JSON, spec(3), "no number or list of numbers"),
        (b"[true, false, true]", Form.JSON, spec(3), "no number or list of numbers"),
        (b"[]", Form.JSON, spec(3), r"numbers of shape \[0\]; the task takes uint8 \[3\]"),
        (b"[[1], [2, 3]]", Form.JSON, spec(3), "lists of unequal length"),
        (b"[1, 2, 3, 4]", Form.JSON, spec(3), r"numbers of shape \[4\]"),
        (b"[[1, 2], [3, 4], [5, 6]]", Form.JSON, spec(2, 3), r"numbers of shape \[3, 2\]"),
        (b"[1, 2, 300]", Form.JSON, spec(3), "a number that uint8 does not hold"),
        (b"[1, 2, -1]", Form.JSON, spec(3), "a number that uint8 does not hold"),
        (b"[1, 2, 0.5]", Form.JSON, spec(3), "a number that uint8 does not hold"),
        (b"[1e39]", Form.JSON, spec(1, dtype="float32"), "a number that float32 does not hold"),
        (b"[70000]", Form.JSON, spec(1, dtype="float16"), "a number that float16 does not hold"),
        (b"[1e400]", Form.JSON, spec(1, dtype="float32"), "a number that float32 does not hold"),
        (b"[NaN]", Form.JSON, spec(1, dtype="float32"), "NaN is not a number"),
        (b"[Infinity]", Form.JSON, spec(1, dtype="float32"), "Infinity is not a number"),
        (b"[1, 2", Form.JSON, spec(2), "not valid JSON"),
        (b"\xff\xfe\x00", Form.JSON, spec(2), "not valid JSON"),
        (b"[" * 60_000, Form.JSON, spec(2), "not valid JSON"),
        (b"[" + b"9" * 5000 + b"]", Form.JSON, spec(1), "not valid JSON"),
        (b" " * 70_000, Form.JSON, spec(2), "json of 70,000 bytes; the task takes"),
        (b"\x81", Form.CBOR, spec(2), "is not valid"),
        (codec.encode(np.zeros(3, np.float32)), Form.CBOR, spec(3), "float32, which does not fit without loss"),
        (codec.encode(np.zeros((3, 1), np.uint8)), Form.CBOR, spec(1, 3), r"numbers of shape \[3, 1\]"),
        (codec.encode("abc"), Form.CBOR, spec(3), "no number or list of numbers"),
        (png(np.zeros((2, 2), np.uint8)), Form.IMAGE, spec(2, 2, dtype="int8"), "does not fit without loss"),
        (bytes(16 * 1024**2 + 1), Form.IMAGE, spec(2, 2), "at most 16,777,216 bytes"),
    ],
)
def test_error_says_what_came_and_what_is_needed(body, form, task, words):
    with pytest.raises(SampleError, match=words):
        preprocess.decode(body, form, task)


@given(body=st.binary(max_size=200), form=st.sampled_from(Form), fields=st.sampled_from([(), ("a",)]))
def test_no_bytes_at_all_break_the_decoding(body, form, fields):
    task = spec(2, 3, dtype="float32")
    try:
        tensor = preprocess.decode(body, form, task, fields=fields)
    except SampleError:
        return
    task.check(tensor)


@pytest.mark.parametrize(
    ("content_type", "form"),
    [
        ("application/octet-stream", Form.RAW),
        ("Application/JSON; charset=utf-8", Form.JSON),
        ("text/plain", Form.JSON),
        ("image/jpeg", Form.IMAGE),
        ("application/cbor", Form.CBOR),
        ("application/x-npy", Form.NPY),
    ],
)
def test_content_type_names_the_form(content_type, form):
    assert preprocess.form_of(content_type) is form


@pytest.mark.parametrize("content_type", ["", "text/html", "image/gif"])
def test_unknown_content_type_is_refused(content_type):
    with pytest.raises(SampleError, match="known are application/octet-stream"):
        preprocess.form_of(content_type)


def test_value_of_a_map_says_which_fields_there_are():
    with pytest.raises(SampleError, match=r"no field 'a\.x'; there are: 'a', 'b'"):
        preprocess.value_at({"a": {"c": 1}, "b": 2}, "a.x")
