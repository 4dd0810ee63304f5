import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_agent.decoding import npy
from shared.errors import SampleError


def written(array, version=(1, 0)):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=version)
    return stream.getvalue()


ARRAYS = hnp.arrays(
    st.sampled_from(["u1", "<i2", ">i2", "<f2", "<f4", ">f8", "?"]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)


@given(array=ARRAYS, version=st.sampled_from([(1, 0), (2, 0)]), fortran=st.booleans())
def test_header_says_what_numpy_wrote(array, version, fortran):
    if fortran:
        array = np.asfortranarray(array)
    body = written(array, version)
    header = npy.header(body)
    assert (header.shape, header.dtype, header.file_bytes) == (array.shape, array.dtype, len(body))
    flat = np.frombuffer(body, header.dtype, offset=header.begin) if array.size else np.empty(0, array.dtype)
    np.testing.assert_array_equal(flat.reshape(header.shape, order=header.order), array)


@given(body=st.binary(max_size=300))
def test_no_bytes_at_all_break_the_reading(body):
    for whole in (body, npy.MAGIC + body, npy.MAGIC + b"\1\0\x76\0" + body):
        try:
            header = npy.header(whole)
        except SampleError:
            continue
        assert header.begin <= len(whole)


@pytest.mark.parametrize("count", range(12))
def test_beginning_of_a_file_is_not_refused(count):
    assert npy.data_begin(written(np.zeros(3))[:count]) is None


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"x", "not numpy's npy"),
        (b"\x93NUMPX\1\0\0\0\0\0", "not numpy's npy"),
        (npy.MAGIC + b"\3\0\0\0\0\0", "version 1 or 2"),
        (npy.MAGIC + b"\2\0\0\0\1\0", "header of 65,548 bytes; at most 16,384"),
        (written(np.zeros(3))[:40], "ends within its header"),
        (written(np.array([{}], dtype=object)), "not an array of numbers"),
        (written(np.zeros(2, dtype=[("a", "u1")])), "not an array of numbers"),
        (written(np.array(["a"])), "not an array of numbers"),
        (written(np.zeros(2, np.complex64)), "not an array of numbers"),
        (written(np.zeros((2, 3))).replace(b"(2, 3)", b"[2, 3]"), "not an array of numbers"),
        (written(np.zeros((2, 3))).replace(b"(2, 3)", b"(2,-3)"), "not an array of numbers"),
        (written(np.zeros((2, 3))).replace(b"(2, 3)", b"(True)"), "not an array of numbers"),
        (written(np.zeros(3)).replace(b"'shape'", b"'sharp'"), "damaged header"),
        (written(np.zeros(3)).replace(b"'shape'", b"'shape "), "damaged header"),
        (written(np.zeros(3)).replace(b"<f8", b"<q9"), "damaged header"),
        (written(np.zeros(3)).replace(b"False", b"print"), "damaged header"),
        (written(np.zeros(3)).replace(b"False", b"\xff\xff\xff\xff\xff"), "damaged header"),
    ],
)
def test_what_is_no_file_of_numbers_is_refused(start, words):
    with pytest.raises(SampleError, match=words):
        npy.header(start)
