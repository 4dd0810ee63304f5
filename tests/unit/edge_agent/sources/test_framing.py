import io

import cbor2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.decoding import npy
from edge_agent.sources import framing
from edge_agent.sources.framing import Frames

LIMIT = 1 << 20
MEASURES = {
    "line": (framing.line, b"\n"),
    "piece": (framing.piece(lambda: 3), b""),
    "npy": (framing.npy_file, npy.MAGIC),
    "cbor": (framing.cbor_item, b""),
}


def npy_bytes(array, version=(1, 0)):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=version)
    return stream.getvalue()


def cut(kind, chunks, *, limit=LIMIT, end=True):
    """The frames of these chunks, and what was refused."""
    measure, mark = MEASURES[kind]
    refused = []
    frames = Frames(measure, max_bytes=lambda: limit, refused=lambda err: refused.append(str(err)), mark=mark)
    got = [frame for chunk in chunks for frame in frames.add(chunk)]
    if end:
        frames.end()
    return got, refused


def pieces_of(data, sizes):
    """`data` cut at the sizes, the rest last."""
    at, chunks = 0, []
    for size in sizes:
        chunks.append(data[at : at + size])
        at += size
    return [*chunks, data[at:]]


CBOR_VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.binary(max_size=300), st.text()
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
SIZES = st.lists(st.integers(0, 40), max_size=30)


@given(values=st.lists(CBOR_VALUES, max_size=5), sizes=SIZES)
def test_cbor_stream_is_cut_at_its_items(values, sizes):
    items = [cbor2.dumps(value) for value in values]
    assert cut("cbor", pieces_of(b"".join(items), sizes)) == (items, [])


@given(lines=st.lists(st.binary(max_size=50).filter(lambda b: b"\n" not in b), max_size=6), sizes=SIZES)
def test_text_is_cut_at_its_lines(lines, sizes):
    whole = [line + b"\n" for line in lines]
    assert cut("line", pieces_of(b"".join(whole), sizes)) == (whole, [])


@given(count=st.integers(0, 20), rest=st.integers(0, 2), sizes=SIZES)
def test_raw_stream_is_cut_at_its_size_and_a_half_piece_is_refused(count, rest, sizes):
    data = bytes(range(3 * count + rest))
    got, refused = cut("piece", pieces_of(data, sizes))
    assert got == [data[3 * n : 3 * n + 3] for n in range(count)]
    assert len(refused) == (rest > 0)


@given(shapes=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=4), sizes=SIZES)
def test_npy_stream_is_cut_at_its_files(shapes, sizes):
    files = [npy_bytes(np.ones(shape, np.int16), (1 + index % 2, 0)) for index, shape in enumerate(shapes)]
    assert cut("npy", pieces_of(b"".join(files), sizes)) == (files, [])


@given(data=st.binary(max_size=200), sizes=SIZES, kind=st.sampled_from(sorted(MEASURES)))
def test_no_bytes_at_all_break_the_cutting(data, sizes, kind):
    got, _ = cut(kind, pieces_of(data, sizes), limit=50)
    assert all(0 < len(frame) <= 50 for frame in got)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (bytes([0x1C]), "0x1c begins no CBOR"),
        (bytes([0xFF]), "0xff begins no CBOR"),
        (bytes([0x1F]), "0x1f begins no CBOR"),
        (b"\x81" * 100, "nested too deep"),
        (b"\x5f\x42ab", None),
        (b"\x5f\x42ab\xff", ""),
        (b"\x9f\x01\x82\x02\x03\xff", ""),
        (b"\xbf\x61a\x01\xff", ""),
        (b"\xc1\x1a\x51\x4b\x67\xb0", ""),
        (b"\xfb\x3f\xf0\x00\x00\x00\x00\x00\x00", ""),
        (b"\x5b" + b"\xff" * 8, None),
        (b"\x19\x01", None),
    ],
)
def test_cbor_item_ends_where_rfc_8949_says(item, words):
    got, refused = cut("cbor", [item], end=False)
    assert got == ([item] if words == "" else [])
    assert len(refused) == bool(words)
    assert not words or words in refused[0]


def test_line_without_an_end_is_refused_once_and_the_next_one_found():
    chunks = [b"x" * 30] * 9 + [b"tail\nnext\n"]
    got, refused = cut("line", chunks, limit=100)
    assert refused == ["a frame of more than 100 bytes"]
    assert got == [b"\n", b"next\n"]


def test_line_that_is_too_long_is_refused_and_the_next_one_found():
    got, refused = cut("line", [b"x" * 300 + b"\nnext\n"], limit=100)
    assert (got, refused) == ([b"\n", b"next\n"], ["a frame of more than 100 bytes"])


def test_npy_stream_finds_the_next_file_after_something_else():
    file = npy_bytes(np.arange(3))
    got, refused = cut("npy", [b"\x93NUM", b"BUG" + b"rubbish" * 50, b"\x93N", b"UM", b"PY" + file[6:] + file])
    assert got == [file, file]
    assert refused == ["not numpy's npy of version 1 or 2"]


def test_npy_file_that_is_too_large_is_refused_before_it_is_there():
    file = npy_bytes(np.zeros(1000))
    got, refused = cut("npy", [file[:200], file[200:], npy_bytes(np.zeros(1))], limit=500)
    assert [len(frame) for frame in got] == [136]
    assert refused == ["a frame of more than 500 bytes"]


def test_cbor_stream_goes_on_after_what_is_none():
    got, refused = cut("cbor", [cbor2.dumps([1, 2]) + b"\xff\x00\x00", cbor2.dumps({"a": 1})])
    assert got == [cbor2.dumps([1, 2]), cbor2.dumps({"a": 1})]
    assert len(refused) == 1


def test_what_is_half_there_at_the_end_is_refused():
    got, refused = cut("cbor", [b"\x82\x01"])
    assert got == []
    assert refused == ["the stream ended within a frame, after 2 bytes of it"]


def test_end_of_what_was_refused_already_is_not_refused_again():
    got, refused = cut("line", [b"x" * 200], limit=100)
    assert got == []
    assert len(refused) == 1
