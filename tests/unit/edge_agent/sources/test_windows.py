import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.sources.windows import Windows


@given(
    length=st.integers(1, 12),
    hop=st.integers(1, 20),
    pieces=st.lists(st.integers(0, 15), max_size=12),
    channels=st.integers(1, 3),
)
def test_windows_are_those_of_the_whole_stream_however_it_is_cut(length, hop, pieces, channels):
    stream = np.arange(sum(pieces) * channels, dtype=np.int32).reshape(-1, channels)
    windows, got, at = Windows(length=length, hop=hop), [], 0
    for piece in pieces:
        got += windows.add(stream[at : at + piece])
        at += piece
    wanted = [stream[begin : begin + length] for begin in range(0, len(stream) - length + 1, hop)]
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == np.int32


@given(before=st.integers(0, 9), hop=st.integers(1, 9))
def test_window_never_spans_a_restart(before, hop):
    windows = Windows(length=4, hop=hop)
    windows.add(np.full(before, -1))
    windows.restart()
    got = windows.add(np.arange(4))
    np.testing.assert_array_equal(np.array(got), [[0, 1, 2, 3]])


def test_window_is_an_array_of_its_own():
    windows = Windows(length=2, hop=1)
    first, second = windows.add(np.array([1, 2, 3]))
    first[1] = 9
    assert second.tolist() == [2, 3]
    assert windows.add(np.array([4]))[0].tolist() == [3, 4]


@pytest.mark.parametrize(("length", "hop"), [(0, 1), (1, 0), (-1, 2)])
def test_windows_without_length_or_hop_are_a_mistake(length, hop):
    with pytest.raises(ValueError, match="length >= 1"):
        Windows(length=length, hop=hop)
