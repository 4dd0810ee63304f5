from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from edge_agent.errors import RequestRefused
from edge_agent.server import tensors
from shared.manifest import Dtype

NUMBERS = sorted(tensors._DTYPE_OF)


def arrays(datatype):
    finite = {"allow_nan": False, "allow_infinity": False} if datatype.startswith("FP") else None
    return hnp.arrays(tensors._DTYPE_OF[datatype], hnp.array_shapes(max_dims=4, max_side=4), elements=finite)


@given(st.data(), st.sampled_from(NUMBERS))
def test_json_numbers_come_back_as_the_array_they_were(data, datatype):
    array = data.draw(arrays(datatype))
    for numbers in (array.tolist(), array.ravel().tolist()):
        got = tensors.from_json(numbers, datatype=datatype, shape=array.shape)
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got, array)


@given(st.data(), st.sampled_from(NUMBERS))
def test_raw_bytes_come_back_as_the_array_they_were(data, datatype):
    array = data.draw(arrays(datatype))
    raw = b"x" + array.astype(array.dtype.newbyteorder("<")).tobytes()
    got = tensors.from_bytes(memoryview(raw)[1:], datatype=datatype, shape=array.shape)
    assert got.dtype == array.dtype
    assert (got.flags.aligned, got.flags.writeable) == (True, True)
    np.testing.assert_array_equal(got, array)
    assert tensors.to_bytes(array.ravel(), datatype) == raw[1:]


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), min_size=1))
def test_strings_are_written_as_tritons_client_reads_them(texts):
    raw = tensors.to_bytes(texts, tensors.STRINGS)
    assert [text.decode() for text in deserialize_bytes_tensor(raw)] == texts
    assert raw == serialize_byte_tensor(np.array([text.encode() for text in texts], dtype=np.object_)).item()


def test_every_type_of_a_manifest_is_taken():
    assert {str(dtype) for dtype in tensors._DTYPE_OF.values()} == set(get_args(Dtype))


@pytest.mark.parametrize("datatype", NUMBERS)
def test_every_number_type_is_named_as_the_protocol_names_it(datatype):
    assert tensors.datatype_of(str(tensors._DTYPE_OF[datatype])) == datatype


@pytest.mark.parametrize(
    ("data", "datatype"),
    [
        ([1.5], "UINT8"),
        ([256], "UINT8"),
        ([-1], "UINT8"),
        ([-129], "INT8"),
        ([True], "UINT8"),
        ([None], "FP32"),
        (["1"], "FP32"),
        ([{}], "FP32"),
        ([10**30], "FP32"),
        ([10**400, 1.0], "FP32"),
        ([float("nan")], "INT32"),
        ([1e39], "FP32"),
        ([70_000], "FP16"),
        ([[1], [2, 3]], "FP32"),
        (["a"], "BYTES"),
        ([1], "BF16"),
        ([True], "BOOL"),
        ([1], "INT64"),
    ],
)
def test_json_data_that_is_not_of_its_type_is_refused(data, datatype):
    with pytest.raises(RequestRefused):
        tensors.from_json(data, datatype=datatype, shape=(len(data),))


@pytest.mark.parametrize(
    ("data", "shape"), [([1, 2], (3,)), ([[1, 2]], (2, 1)), ([[[1, 2]]], (2,)), ([], (1,)), ([1], (0,))]
)
def test_json_data_that_does_not_fill_its_shape_is_refused(data, shape):
    with pytest.raises(RequestRefused, match="does not fill the shape"):
        tensors.from_json(data, datatype="UINT8", shape=shape)


def test_empty_json_data_is_an_empty_array():
    assert tensors.from_json([], datatype="UINT8", shape=(0, 8)).shape == (0, 8)


@pytest.mark.parametrize(("count", "shape"), [(3, (1,)), (5, (1,)), (0, (1,)), (4, (2**40, 2**40))])
def test_raw_bytes_that_do_not_fill_their_shape_are_refused(count, shape):
    with pytest.raises(RequestRefused, match="bytes of data; FP32 of shape"):
        tensors.from_bytes(memoryview(b"x" * count), datatype="FP32", shape=shape)
